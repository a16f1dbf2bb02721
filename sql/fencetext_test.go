package sql

import "testing"

// Whatever is set is read back from what SHOW says.
func FuzzParseFence(f *testing.F) {
	for _, s := range []string{"", "/ls/local/jobs/x:exclusive:7:1", "/ls/c/a, b:shared:9:2 ,/ls/c:exclusive:1:0", "/ls/c/d:exclusive:1:1:shared:18446744073709551615:3", ",,", ":exclusive:1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		parsed, err := parseFence(v)
		if err != nil {
			return
		}
		again, err := parseFence(parsed.String())
		if err != nil || again.String() != parsed.String() || len(again) != len(parsed) {
			t.Fatalf("%q reads as %q, and that as %q (%v)", v, parsed, again, err)
		}
		for _, s := range parsed {
			if !isLockPath(s.path) {
				t.Fatalf("%q names %q, which is no lock", v, s.path)
			}
		}
	})
}
