package types_test

import (
	"context"
	"encoding/hex"
	"flag"
	"hash/maphash"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spandb/spand/sql/types"
)

// testdata/wire.txt holds literals and the text and binary forms that PostgreSQL 15
// gives them: "type literal" and below it "= text hex". Run with -pg to take
// them from a server again.
var pgURL = flag.String("pg", "", "connection string of a PostgreSQL 15 to take expectations from")

func typeByName(t testing.TB, name string) types.Type {
	var out types.Type
	types.All(func(in *types.Info) {
		if in.Name == name {
			out = types.T(in.OID)
		}
	})
	if out.OID == 0 {
		t.Fatal("no type", name)
	}
	return out
}

// TestWire: text and binary forms are PostgreSQL's, and both read back.
func TestWire(t *testing.T) {
	data, err := os.ReadFile("testdata/wire.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	var conn *pgconn.PgConn
	if *pgURL != "" {
		if conn, err = pgconn.Connect(context.Background(), *pgURL); err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
	}
	seed := maphash.MakeSeed()
	var out []string
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		out = append(out, l)
		if l == "" || l[0] == '#' {
			continue
		}
		want := ""
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "= ") {
			i++
			want = lines[i]
		}
		name, lit, _ := strings.Cut(l, " ")
		typ := typeByName(t, name)
		if conn != nil {
			q := "SELECT $1::" + name
			if in := types.Lookup(typ.OID); in.Elem != 0 && strings.HasPrefix(name, "_") {
				q = "SELECT $1::" + name[1:] + "[]"
			}
			var cells []string
			for _, f := range []int16{0, 1} {
				r := conn.ExecParams(context.Background(), q, [][]byte{[]byte(lit)}, nil, nil, []int16{f}).Read()
				if r.Err != nil {
					t.Fatal(l, r.Err)
				}
				v := string(r.Rows[0][0])
				if f == 1 {
					v = hex.EncodeToString(r.Rows[0][0])
				}
				cells = append(cells, v)
			}
			want = "= " + cells[0] + " " + cells[1]
		}
		out = append(out, want)
		d, err := types.ParseText(lit, typ, nil)
		if err != nil {
			t.Errorf("%s: %v", l, err)
			continue
		}
		text := string(types.AppendText(nil, d, typ, nil))
		bin, err := types.AppendBinary(nil, d, typ)
		if err != nil {
			t.Errorf("%s: %v", l, err)
			continue
		}
		if got := "= " + text + " " + hex.EncodeToString(bin); got != want {
			t.Errorf("%s\n  got  %s\n  want %s", l, got, want)
		}
		for what, f := range map[string]func() (types.Datum, error){
			"binary": func() (types.Datum, error) { return types.ParseBinary(bin, typ) },
			"text":   func() (types.Datum, error) { return types.ParseText(text, typ, nil) },
		} {
			back, err := f()
			if err != nil || types.Compare(d, back, typ) != 0 || types.Hash(seed, d, typ) != types.Hash(seed, back, typ) {
				t.Errorf("%s: read back from %s: %v %v", l, what, back, err)
			}
			if s := string(types.AppendText(nil, back, typ, nil)); s != text {
				t.Errorf("%s: read back from %s as %s", l, what, s)
			}
		}
	}
	if conn != nil {
		if err := os.WriteFile("testdata/wire.txt", []byte(strings.Join(out, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoAllocs: the wire prints every value with these.
func TestNoAllocs(t *testing.T) {
	for name, lit := range map[string]string{"int4": "-12345", "int8": "9223372036854775807", "float8": "1.5e300", "numeric": "123456.789", "text": "hello", "bool": "t",
		"timestamp": "2026-11-22 10:11:12.5", "timestamptz": "2026-11-22 10:11:12.5+00", "date": "2026-11-22", "interval": "1 day 2:03:04", "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
		"bytea": `\x0102`, "_int4": "{1,2,3}", "_text": `{a,"b c"}`} {
		typ := typeByName(t, name)
		d, err := types.ParseText(lit, typ, nil)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 0, 256)
		fs := types.DefaultFormat
		if n := testing.AllocsPerRun(100, func() {
			buf = types.AppendText(buf[:0], d, typ, &fs)
			buf, _ = types.AppendBinary(buf[:0], d, typ)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzParseText(f *testing.F) {
	data, _ := os.ReadFile("testdata/wire.txt")
	for _, l := range strings.Split(string(data), "\n") {
		if name, lit, ok := strings.Cut(l, " "); ok && name != "=" && name != "#" {
			f.Add(uint32(typeByName(f, name).OID), lit)
		}
	}
	f.Fuzz(func(t *testing.T, oid uint32, s string) {
		typ := types.T(types.OID(oid))
		d, err := types.ParseText(s, typ, nil)
		if err != nil || types.CheckUTF8(s) != nil {
			return
		}
		text := string(types.AppendText(nil, d, typ, nil))
		back, err := types.ParseText(text, typ, nil)
		if typ.OID == types.OIDVoid {
			return
		}
		if err != nil {
			t.Fatalf("%s %q prints %q: %v", types.Name(typ), s, text, err)
		}
		if types.Comparable(typ.OID) && types.Compare(d, back, typ) != 0 {
			t.Fatalf("%s %q prints %q, another value", types.Name(typ), s, text)
		}
		bin, err := types.AppendBinary(nil, d, typ)
		if err != nil {
			return
		}
		if back, err = types.ParseBinary(bin, typ); err != nil || types.Comparable(typ.OID) && types.Compare(d, back, typ) != 0 {
			t.Fatalf("%s %q in binary %x: %v %v", types.Name(typ), s, bin, back, err)
		}
	})
}

func FuzzParseBinary(f *testing.F) {
	data, _ := os.ReadFile("testdata/wire.txt")
	lines := strings.Split(string(data), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "= ") {
			name, _, _ := strings.Cut(lines[i-1], " ")
			b, _ := hex.DecodeString(l[strings.LastIndexByte(l, ' ')+1:])
			f.Add(uint32(typeByName(f, name).OID), b)
		}
	}
	f.Fuzz(func(t *testing.T, oid uint32, b []byte) {
		typ := types.T(types.OID(oid))
		d, err := types.ParseBinary(b, typ)
		if err != nil {
			return
		}
		types.AppendText(nil, d, typ, nil)
		bin, err := types.AppendBinary(nil, d, typ)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := types.ParseBinary(bin, typ); err != nil || types.Comparable(typ.OID) && types.Compare(d, back, typ) != 0 {
			t.Fatalf("%s %x then %x: %v", types.Name(typ), b, bin, err)
		}
	})
}
