package lockservice

import "strings"

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
	return cell, nil
}
