package state

import (
	"strings"
	"unicode/utf8"
)

const (
	maxPath      = 4096
	maxComponent = 255
)

// CheckPath refuses what is not the root of the cell or a path below it.
func (s *State) CheckPath(path string) *Error {
	below, ok := strings.CutPrefix(path, s.root)
	switch {
	case !ok || below != "" && below[0] != '/':
		return refuse(BadPath, clip(path), "path %q is not in cell %q: paths begin with %s", clip(path), s.cell, s.root)
	case len(path) > maxPath:
		return refuse(BadPath, clip(path), "path has %d bytes; at most %d are allowed", len(path), maxPath)
	case below == "":
		return nil
	}
	for name := range strings.SplitSeq(below[1:], "/") {
		if !validName(name) {
			return refuse(BadPath, path, "path %q has the component %q: components are 1 to %d bytes of UTF-8 without control characters, and not . or ..", path, clip(name), maxComponent)
		}
	}
	return nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxComponent || name == "." || name == ".." || !utf8.ValidString(name) {
		return false
	}
	for _, r := range name {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '/' {
			return false
		}
	}
	return true
}

func validCell(name string) bool {
	if name == "" || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// split divides a path below the root into its directory and its name.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

// clip keeps what a client sent from blowing up an error message.
func clip(s string) string {
	if len(s) <= maxComponent {
		return s
	}
	return strings.ToValidUTF8(s[:maxComponent], "") + "..."
}
