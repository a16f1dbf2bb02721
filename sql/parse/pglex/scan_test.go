package pglex

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

var kindNames = map[Kind]string{
	EOF: "eof", Ident: "ident", QuotedIdent: "quoted", Op: "op", Punct: "punct", Int: "int", Num: "num", Str: "str", Bit: "bit", Param: "param",
}

// TestScan shows tokens, one a line: kind, value, source. In the input, <X> in
// angle brackets is a control character: <nl> <cr> <tab> <ff>.
func TestScan(t *testing.T) {
	ctl := strings.NewReplacer("<nl>", "\n", "<cr>", "\r", "<tab>", "\t", "<ff>", "\f")
	datadriven.RunTest(t, "testdata/scan", func(t *testing.T, d *datadriven.TestData) string {
		src := ctl.Replace(d.Input)
		toks, err := All(src, nil)
		if err != nil {
			s := fmt.Sprintf("%s at %d: %s\n", err.Code, err.Position, err.Message)
			if err.Hint != "" {
				s += "hint: " + err.Hint + "\n"
			}
			return s
		}
		var b strings.Builder
		for i := range toks[:len(toks)-1] {
			tk := &toks[i]
			fmt.Fprintf(&b, "%-6s %q", kindNames[tk.Kind], tk.Text)
			if raw := src[tk.Start:tk.End]; raw != tk.Text {
				fmt.Fprintf(&b, "  from %q", raw)
			}
			b.WriteByte('\n')
		}
		return b.String()
	})
}

func TestLongNames(t *testing.T) {
	long := strings.Repeat("é", 40) // 80 bytes; 63 would split a character
	for _, src := range []string{long, strings.ToUpper("A" + strings.Repeat("b", 70)), `"` + long + `"`} {
		toks, err := All(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := toks[0].Name()
		if len(n) > MaxIdent || len(n) < MaxIdent-1 || string(toks[0].AppendName(nil)) != n {
			t.Errorf("%q: %d bytes", src, len(n))
		}
	}
	if _, err := All("select "+strings.Repeat("+", 70)+"@", nil); err == nil || err.Message != "operator too long at or near \""+strings.Repeat("+", 70)+"@\"" {
		t.Errorf("got %v", err)
	}
}

// TestPlainTokensDoNotAllocate guards the cache's hit path.
func TestPlainTokensDoNotAllocate(t *testing.T) {
	const src = "SELECT abalance FROM pgbench_accounts WHERE aid = 56093 AND x = 'abc' -- c"
	buf := make([]byte, 0, 256)
	n := testing.AllocsPerRun(100, func() {
		var s Scanner
		var tk Token
		s.Init(src)
		for {
			if err := s.Next(&tk); err != nil {
				t.Fatal(err)
			}
			if tk.Kind == EOF {
				break
			}
			if tk.Kind == Ident {
				buf = tk.AppendName(buf[:0])
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{"select 'a''b' \n 'c'", `U&"\0061" UESCAPE '!'`, `E'\u00e9\x41\101'`, "$a$b$a$", "1..2 1.e5 .5 1e", "/* /* */ */ -- x", "a<=-1 @- +-*/", `"a""b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		toks, err := All(src, nil)
		if err != nil {
			if n := len([]rune(src)); err.Position < 0 || err.Position > n+1 {
				t.Fatalf("position %d of %d", err.Position, n)
			}
			return
		}
		end := int32(0)
		for i := range toks {
			tk := &toks[i]
			if tk.Start < end || tk.End < tk.Start || int(tk.End) > len(src) {
				t.Fatalf("token %d is [%d,%d) behind %d", i, tk.Start, tk.End, end)
			}
			end = tk.End
		}
	})
}
