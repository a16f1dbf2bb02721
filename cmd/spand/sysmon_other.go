//go:build !linux

package main

// calmSysmon does nothing: what it gains has only been measured on Linux.
func calmSysmon() {}
