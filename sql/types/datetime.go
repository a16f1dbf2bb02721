package types

import (
	"math"
	"strconv"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
)

// Microseconds of the units that timestamps and intervals are made of.
const (
	Microsecond int64 = 1
	Millisecond       = 1000 * Microsecond
	Second            = 1000 * Millisecond
	Minute            = 60 * Second
	Hour              = 60 * Minute
	Day               = 24 * Hour
)

const (
	epochUnix   = 946684800 // 2000-01-01 in Unix seconds
	epochJulian = 2451545   // and as a Julian day
	// The first and last representable instants: 4713-01-01 BC, and before 294277-01-01.
	minTimestamp = -211813488000000000
	endTimestamp = 9223371331200000000
	minDate      = -2451545
	endDate      = 2145031949 // 5874898-01-01
)

// Infinite values of timestamps and dates.
const (
	TimestampInfinity    = math.MaxInt64
	TimestampNegInfinity = math.MinInt64
	DateInfinity         = math.MaxInt32
	DateNegInfinity      = math.MinInt32
)

// TimestampFromTime converts an instant, cutting off below microseconds.
func TimestampFromTime(t time.Time) int64 {
	return (t.Unix()-epochUnix)*Second + int64(t.Nanosecond()/1000)
}

// TimeFromTimestamp converts back; us must be finite.
func TimeFromTimestamp(us int64) time.Time {
	s := floorDiv64(us, Second)
	return time.Unix(s+epochUnix, (us-s*Second)*1000).UTC()
}

func floorDiv64(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}

// Civil is a date and time of day without a zone; Year 0 is 1 BC.
type Civil struct {
	Year, Month, Day     int
	Hour, Minute, Second int
	Micro                int
}

// DaysFromCivil counts days since 2000-01-01 in the proleptic Gregorian calendar.
// The day may lie outside the month.
func DaysFromCivil(y, m, d int) int64 {
	if m > 2 {
		m++
		y += 4800
	} else {
		m += 13
		y += 4799
	}
	c := y / 100
	j := y*365 - 32167
	j += y/4 - c + c/4
	j += 7834*m/256 + d
	return int64(j) - epochJulian
}

// CivilFromDays is its inverse.
func CivilFromDays(days int64) (y, m, d int) {
	j := uint64(days+epochJulian) + 32044
	quad := j / 146097
	extra := (j-quad*146097)*4 + 3
	j += 60 + quad*3 + extra/146097
	quad = j / 1461
	j -= quad * 1461
	yy := int64(j * 4 / 1461)
	if yy != 0 {
		j = (j + 305) % 365
	} else {
		j = (j + 306) % 366
	}
	j += 123
	yy += int64(quad * 4)
	y = int(yy - 4800)
	quad = j * 2141 / 65536
	d = int(j - 7834*quad/256)
	m = int((quad+10)%12 + 1)
	return y, m, d
}

// CivilFromTimestamp splits a finite timestamp (without zone).
func CivilFromTimestamp(us int64) Civil {
	days := floorDiv64(us, Day)
	t := us - days*Day
	var c Civil
	c.Year, c.Month, c.Day = CivilFromDays(days)
	c.Hour = int(t / Hour)
	c.Minute = int(t / Minute % 60)
	c.Second = int(t / Second % 60)
	c.Micro = int(t % Second)
	return c
}

// Timestamp joins the parts; ok is false beyond the range of timestamps.
func (c Civil) Timestamp() (us int64, ok bool) {
	days := DaysFromCivil(c.Year, c.Month, c.Day)
	if days < -110000000 || days > 110000000 {
		return 0, false
	}
	t := int64(c.Hour)*Hour + int64(c.Minute)*Minute + int64(c.Second)*Second + int64(c.Micro)
	if days > 106751991 || days < -106751992 {
		return 0, false
	}
	us = days*Day + t
	return us, ValidTimestamp(us)
}

// ValidTimestamp reports whether us is a finite timestamp in range.
func ValidTimestamp(us int64) bool { return us >= minTimestamp && us < endTimestamp }

// LocalOffset is the zone's offset east of UTC in seconds at the instant us.
func LocalOffset(us int64, loc *time.Location) int {
	if loc == time.UTC || loc == nil {
		return 0
	}
	_, off := time.Unix(floorDiv64(us, Second)+epochUnix, 0).In(loc).Zone()
	return off
}

// ToLocal turns an instant into the wall clock of loc.
func ToLocal(us int64, loc *time.Location) int64 {
	if us == TimestampInfinity || us == TimestampNegInfinity {
		return us
	}
	return us + int64(LocalOffset(us, loc))*Second
}

// FromLocal turns a wall clock reading in loc into an instant. A reading that a
// change of the clock skips or repeats is taken with the offset from before it.
func FromLocal(us int64, loc *time.Location) int64 {
	if us == TimestampInfinity || us == TimestampNegInfinity || loc == time.UTC || loc == nil {
		return us
	}
	before := LocalOffset(us-Day, loc)
	after := LocalOffset(us+Day, loc)
	if before == after {
		// No change near by, or two that cancel out: ask at the candidate itself.
		off := LocalOffset(us-int64(before)*Second, loc)
		return us - int64(off)*Second
	}
	c1 := us - int64(before)*Second
	c2 := us - int64(after)*Second
	ok1 := LocalOffset(c1, loc) == before
	ok2 := LocalOffset(c2, loc) == after
	switch {
	case ok1 && ok2:
		// Repeated hour: PostgreSQL takes standard time, the later instant.
		return max(c1, c2)
	case ok1:
		return c1
	case ok2:
		return c2
	}
	return c1 // skipped hour: the offset from before the change
}

func appendPadded(dst []byte, v, width int) []byte {
	var tmp [20]byte
	s := strconv.AppendInt(tmp[:0], int64(v), 10)
	for i := len(s); i < width; i++ {
		dst = append(dst, '0')
	}
	return append(dst, s...)
}

func append2(dst []byte, v int) []byte { return append(dst, byte('0'+v/10), byte('0'+v%10)) }

func appendYMD(dst []byte, y, m, d int) (out []byte, bc bool) {
	if y <= 0 {
		y, bc = 1-y, true
	}
	dst = appendPadded(dst, y, 4)
	dst = append2(append(dst, '-'), m)
	return append2(append(dst, '-'), d), bc
}

func appendFraction(dst []byte, us int) []byte {
	if us == 0 {
		return dst
	}
	dst = append(dst, '.')
	for p := 100000; us > 0; p /= 10 {
		dst = append(dst, byte('0'+us/p))
		us %= p
	}
	return dst
}

func appendClock(dst []byte, us int64) []byte {
	dst = append2(dst, int(us/Hour))
	dst = append2(append(dst, ':'), int(us/Minute%60))
	dst = append2(append(dst, ':'), int(us/Second%60))
	return appendFraction(dst, int(us%Second))
}

func appendInfinity(dst []byte, neg bool) []byte {
	if neg {
		return append(dst, "-infinity"...)
	}
	return append(dst, "infinity"...)
}

func appendTimestamp(dst []byte, us int64) []byte {
	if us == TimestampInfinity || us == TimestampNegInfinity {
		return appendInfinity(dst, us < 0)
	}
	days := floorDiv64(us, Day)
	y, m, d := CivilFromDays(days)
	dst, bc := appendYMD(dst, y, m, d)
	dst = appendClock(append(dst, ' '), us-days*Day)
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

func appendTimestampTZ(dst []byte, us int64, loc *time.Location) []byte {
	if us == TimestampInfinity || us == TimestampNegInfinity {
		return appendInfinity(dst, us < 0)
	}
	off := LocalOffset(us, loc)
	local := us + int64(off)*Second
	days := floorDiv64(local, Day)
	y, m, d := CivilFromDays(days)
	dst, bc := appendYMD(dst, y, m, d)
	dst = appendClock(append(dst, ' '), local-days*Day)
	dst = AppendOffset(dst, off)
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

// AppendOffset appends a zone's offset as ISO output has it: +02, -03:30.
func AppendOffset(dst []byte, off int) []byte {
	if off < 0 {
		dst = append(dst, '-')
		off = -off
	} else {
		dst = append(dst, '+')
	}
	dst = append2(dst, off/3600)
	if off%3600 != 0 {
		dst = append2(append(dst, ':'), off/60%60)
		if off%60 != 0 {
			dst = append2(append(dst, ':'), off%60)
		}
	}
	return dst
}

func appendDate(dst []byte, days int64) []byte {
	if days == DateInfinity || days == DateNegInfinity {
		return appendInfinity(dst, days < 0)
	}
	y, m, d := CivilFromDays(days)
	dst, bc := appendYMD(dst, y, m, d)
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

func appendTime(dst []byte, us int64) []byte { return appendClock(dst, us) }

// DaysInMonth of a year, astronomical (0 is 1 BC).
func DaysInMonth(y, m int) int {
	switch m {
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// DateToTimestamp is midnight of a date; 22008 beyond the range of timestamps.
func DateToTimestamp(days int64) (int64, error) {
	switch days {
	case DateInfinity:
		return TimestampInfinity, nil
	case DateNegInfinity:
		return TimestampNegInfinity, nil
	}
	if days < minTimestamp/Day || days >= endTimestamp/Day {
		return 0, sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "date out of range for timestamp")
	}
	return days * Day, nil
}

// TimestampToDate drops the time of day.
func TimestampToDate(us int64) int64 {
	switch us {
	case TimestampInfinity:
		return DateInfinity
	case TimestampNegInfinity:
		return DateNegInfinity
	}
	return floorDiv64(us, Day)
}

// ErrTimestampRange is timestamps' overflow.
func ErrTimestampRange() error {
	return sqlstate.Newf(sqlstate.DatetimeFieldOverflow, "timestamp out of range")
}
