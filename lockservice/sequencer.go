package lockservice

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
)

// Sequencer describes a lock at the moment when it was held. Its text, which Lock.Sequencer
// returns and SQL takes as spand.fence, is "<path>:<exclusive|shared>:<generation>:<hold>".
//
// A store that cannot ask the service whether a sequencer is valid keeps the highest
// Generation that it has seen and refuses lower ones.
type Sequencer struct {
	Path       string
	Shared     bool
	Generation uint64 // grows whenever the lock goes from free to held, also over nodes that are made again
	Hold       uint64 // which of several shared holders
}

func (q Sequencer) String() string {
	mode := "exclusive"
	if q.Shared {
		mode = "shared"
	}
	return fmt.Sprintf("%s:%s:%d:%d", q.Path, mode, q.Generation, q.Hold)
}

// ParseSequencer reads a sequencer's text. The error is ErrBadRequest.
func ParseSequencer(text string) (Sequencer, error) {
	bad := func(why string) (Sequencer, error) {
		return Sequencer{}, &Error{Code: codes.InvalidArgument, Reason: "BAD_REQUEST",
			Message: fmt.Sprintf("sequencer %q: %s; want <path>:<exclusive|shared>:<generation>:<hold>", text, why)}
	}
	// From the right: a path may contain colons.
	rest, hold, ok := cutLast(text)
	if !ok {
		return bad("no hold")
	}
	rest, generation, ok := cutLast(rest)
	if !ok {
		return bad("no generation")
	}
	path, mode, ok := cutLast(rest)
	if !ok {
		return bad("no mode")
	}
	q := Sequencer{Path: path, Shared: mode == "shared"}
	if mode != "shared" && mode != "exclusive" {
		return bad("bad mode")
	}
	var err error
	if q.Generation, err = decimal(generation); err != nil || q.Generation == 0 {
		return bad("bad generation")
	}
	if q.Hold, err = decimal(hold); err != nil {
		return bad("bad hold")
	}
	if _, err := cellOf(path); err != nil {
		return bad("bad path")
	}
	return q, nil
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// decimal reads digits as String writes them: no sign, no leading zero.
func decimal(s string) (uint64, error) {
	if len(s) > 1 && s[0] == '0' || s != "" && s[0] == '+' {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, 64)
}
