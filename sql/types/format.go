package types

import "time"

// FormatSettings are the session settings that text input and output depend on.
type FormatSettings struct {
	Location         *time.Location // TimeZone; nil is UTC
	DateStyle        string         // "ISO, MDY" …
	IntervalStyle    string         // "postgres"
	ExtraFloatDigits int            // 1 by default: shortest round-trip
	ByteaHex         bool           // bytea_output = hex

	// Now is what the input words now, today, … mean: the transaction's time. Nil
	// is the wall clock.
	Now func() time.Time
	// Names resolves reg* values (regclass …); nil prints and reads numbers only.
	Names RegNames
}

// RegNames turns the objects that reg* types stand for into names and back.
type RegNames interface {
	// RegName is the name of v under the reg* type t; ok false: print the number.
	RegName(t OID, v OID) (name string, ok bool)
	// RegOID finds name under the reg* type t, or says that there is none.
	RegOID(t OID, name string) (OID, error)
}

// DefaultFormat is what a session starts with.
var DefaultFormat = FormatSettings{DateStyle: "ISO, MDY", IntervalStyle: "postgres", ExtraFloatDigits: 1, ByteaHex: true}

func (fs *FormatSettings) location() *time.Location {
	if fs == nil || fs.Location == nil {
		return time.UTC
	}
	return fs.Location
}

func (fs *FormatSettings) now() time.Time {
	if fs == nil || fs.Now == nil {
		return time.Now()
	}
	return fs.Now()
}
