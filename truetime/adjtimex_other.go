//go:build !linux

package truetime

import "errors"

func adjtimex() (KernelState, error) {
	return KernelState{}, errors.New("this system does not report its clock's error")
}
