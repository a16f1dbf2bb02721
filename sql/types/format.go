package types

import "time"

// FormatSettings are the session settings that text output depends on.
type FormatSettings struct {
	Location         *time.Location // TimeZone
	DateStyle        string         // "ISO, MDY" …
	IntervalStyle    string         // "postgres"
	ExtraFloatDigits int            // 1 by default: shortest round-trip
	ByteaHex         bool           // bytea_output = hex
}
