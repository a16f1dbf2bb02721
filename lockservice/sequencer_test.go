package lockservice

import (
	"errors"
	"testing"
)

func TestSequencerText(t *testing.T) {
	for _, q := range []Sequencer{
		{Path: "/ls/local/jobs/x", Generation: 7, Hold: 12},
		{Path: "/ls/local/a:b:1:2", Shared: true, Generation: 1<<64 - 1},
	} {
		if got, err := ParseSequencer(q.String()); err != nil || got != q {
			t.Errorf("%q: %+v, %v", q.String(), got, err)
		}
	}
	for _, bad := range []string{"", "x", "/ls/local/x", "/ls/local/x:exclusive:1", "/ls/local/x:exclusive:0:1", "/ls/local/x:writer:1:1",
		"/ls/local/x:shared:01:1", "/ls/local/x:shared:+1:1", "/ls/local/x:shared:1:-1", "/x:shared:1:1", "/ls/:shared:1:1", "/ls/local/x:shared:18446744073709551616:1"} {
		if q, err := ParseSequencer(bad); !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrBadPath) {
			t.Errorf("%q: %+v, %v", bad, q, err)
		}
	}
}

func FuzzParseSequencer(f *testing.F) {
	f.Add("/ls/local/jobs/x:exclusive:7:12")
	f.Add("/ls/local/a:b:shared:1:0")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseSequencer(text)
		if err == nil && q.String() != text {
			t.Errorf("%q is read as %+v, which is %q", text, q, q.String())
		}
	})
}
