//go:build !linux

package storage

// Sync is what the system's fsync is, which os makes a full one where that is another (macOS).
func (f *osFile) Sync() error { return f.File.Sync() }
