package parse

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

type corpusStmt struct{ source, sql string }

func readCorpus(t testing.TB, path string) []corpusStmt {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []corpusStmt
	for _, chunk := range strings.Split(string(b), "-- @@ ")[1:] {
		src, sql, _ := strings.Cut(chunk, "\n")
		out = append(out, corpusStmt{strings.TrimSpace(src), strings.TrimSpace(sql)})
	}
	return out
}

func TestTryAll(t *testing.T) {
	for _, f := range strings.Fields(os.Getenv("FILES")) {
		ok, n := 0, 0
		for _, s := range readCorpus(t, f) {
			n++
			if _, err := Parse(s.sql); err != nil {
				fmt.Printf("FAIL %v\n   %s\n", err, strings.ReplaceAll(s.sql, "\n", " "))
			} else {
				ok++
			}
		}
		fmt.Printf("%s %d/%d\n", f, ok, n)
	}
}
