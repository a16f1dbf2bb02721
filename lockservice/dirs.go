package lockservice

import (
	"context"
	"errors"
	"strings"
)

// MkdirAll makes a directory and those above it that are not there. ErrNotDirectory.
func (s *Session) MkdirAll(ctx context.Context, path string) error {
	h, err := s.Open(ctx, path, OpenOptions{Create: CreateIfAbsent, Directory: true})
	if errors.Is(err, ErrNotFound) {
		if up := path[:max(0, strings.LastIndexByte(path, '/'))]; strings.Count(up, "/") > 1 {
			if err := s.MkdirAll(ctx, up); err != nil {
				return err
			}
			h, err = s.Open(ctx, path, OpenOptions{Create: CreateIfAbsent, Directory: true})
		}
	}
	if err != nil {
		return err
	}
	return h.Close(ctx)
}
