//go:build !linux

package integration

import (
	"errors"
	"testing"
)

// Namespaces are Linux's: here there are none.
type Namespaces struct{}

var errNoNamespaces = errors.New("network namespaces need Linux")

// NewNamespaces fails the test.
func NewNamespaces(t testing.TB, nodes int) *Namespaces {
	t.Helper()
	t.Fatal(errNoNamespaces)
	return nil
}

// InNamespace fails the test.
func InNamespace(t testing.TB) bool {
	t.Helper()
	t.Fatal(errNoNamespaces)
	return false
}

// Host is never called, and so with the others.
func (*Namespaces) Host(int) string                                  { return "" }
func (*Namespaces) Cut(from, to int) error                           { return errNoNamespaces }
func (*Namespaces) Heal(from, to int) error                          { return errNoNamespaces }
func (*Namespaces) command(int, string, []string) (string, []string) { return "", nil }
