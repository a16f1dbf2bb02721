package lockservice

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
)

// cellOf is the cell of a path /ls/<cell>/…; the service checks the rest.
func cellOf(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "/ls/")
	if !ok {
		return "", badPath(path, "does not begin with /ls/")
	}
	cell, _, _ := strings.Cut(rest, "/")
	if cell == "" {
		return "", badPath(path, "names no cell")
	}
	// What cannot be encoded would break the stream that calls share.
	if !utf8.ValidString(path) {
		return "", badPath(path, "is not UTF-8")
	}
	if len(path) > maxPath {
		return "", badPath(path[:100]+"...", fmt.Sprintf("is longer than %d bytes", maxPath))
	}
	return cell, nil
}

const (
	maxPath     = 4096
	maxContents = 256 << 10
	maxName     = 4096 // of what else is a string
)

// checkText refuses a string that could not be sent.
func checkText(what, text string) error {
	why := ""
	switch {
	case !utf8.ValidString(text):
		why = "is not UTF-8"
	case len(text) > 2*maxName:
		text, why = text[:100], "is too long"
	default:
		return nil
	}
	return &Error{Code: codes.InvalidArgument, Reason: "BAD_REQUEST", Message: fmt.Sprintf("%s %q %s", what, text, why)}
}

func checkContents(path string, contents []byte) error {
	if len(contents) <= maxContents {
		return nil
	}
	return &Error{Code: codes.InvalidArgument, Reason: "TOO_LARGE", Path: path,
		Message: fmt.Sprintf("contents of %d bytes for %s: a file has at most %d", len(contents), path, maxContents)}
}

func (a *ACL) check() error {
	if a == nil {
		return nil
	}
	for _, name := range []string{a.Read, a.Write, a.Change} {
		if err := checkText("ACL name", name); err != nil {
			return err
		}
	}
	return nil
}

// maxLockDelay is the longest lock-delay that the cell grants.
const maxLockDelay = time.Minute

func checkDelay(path string, d time.Duration) error {
	if d < 0 || d > maxLockDelay {
		return &Error{Code: codes.InvalidArgument, Reason: "BAD_REQUEST", Path: path, Message: fmt.Sprintf("a lock-delay is between 0 and %v, not %v", maxLockDelay, d)}
	}
	return nil
}
