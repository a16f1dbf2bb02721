package sql

import (
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/truetime"
)

// staleness says at what time read-only transactions read: the setting
// spand.read_only_staleness, in the words of Cloud Spanner's PostgreSQL dialect.
type staleness struct {
	mode stalenessMode
	age  time.Duration      // of EXACT_STALENESS, MAX_STALENESS
	at   truetime.Timestamp // of READ_TIMESTAMP, MIN_READ_TIMESTAMP
}

type stalenessMode uint8

const (
	strong   stalenessMode = iota // now
	exactAge                      // so old
	maxAge                        // no older, and as fresh as can be had without waiting
	readAt                        // then
	minAt                         // not before then, and as fresh as can be had without waiting
)

var stalenessWords = [...]string{"STRONG", "EXACT_STALENESS", "MAX_STALENESS", "READ_TIMESTAMP", "MIN_READ_TIMESTAMP"}

const stalenessSetting = "spand.read_only_staleness"

func init() {
	define(setting{name: stalenessSetting, def: "STRONG", desc: "Sets how old the data may be that read-only transactions read.",
		check: func(v string) (string, error) {
			s, err := parseStaleness(v)
			return s.String(), err
		}})
	define(setting{name: "spand.read_timestamp", readOnly: true, desc: "Shows the timestamp at which this session's last read-only transaction read.",
		show: func(c *Conn) string { return showTimestamp(c.lastRead) }})
}

// showTimestamp writes t as parseTimestamp reads it, to the nanosecond; "" when it is 0.
func showTimestamp(t truetime.Timestamp) string {
	if t == 0 {
		return ""
	}
	return t.Time().Format("2006-01-02T15:04:05.000000000Z")
}

// parseTimestamp reads an RFC 3339 timestamp without losing nanoseconds.
func parseTimestamp(v string) (truetime.Timestamp, bool) {
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(v))
	if err != nil || t.Before(time.Unix(0, 1)) || t.After(truetime.Max.Time()) {
		return 0, false
	}
	return truetime.FromTime(t), true
}

func parseStaleness(v string) (staleness, error) {
	fields := strings.Fields(v)
	for mode, word := range stalenessWords {
		s := staleness{mode: stalenessMode(mode)}
		if len(fields) == 0 || !strings.EqualFold(fields[0], word) {
			continue
		}
		ok := false
		switch {
		case s.mode == strong:
			ok = len(fields) == 1
		case len(fields) != 2:
		case s.mode == exactAge || s.mode == maxAge:
			s.age, ok = parseAge(fields[1])
		default:
			s.at, ok = parseTimestamp(fields[1])
		}
		if ok {
			return s, nil
		}
	}
	return staleness{}, invalidValue(stalenessSetting, v).(*sqlstate.Error).WithHint("Use STRONG, EXACT_STALENESS <duration>, MAX_STALENESS <duration>, " +
		"READ_TIMESTAMP <timestamp> or MIN_READ_TIMESTAMP <timestamp>, with a duration such as 10s (ns, us, ms, s, min, h) and a timestamp such as 2026-01-02T03:04:05Z.")
}

// ageUnits from the largest, so that an age is shown in the largest unit that is exact.
var ageUnits = []struct {
	name string
	d    time.Duration
}{{"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond}, {"ns", time.Nanosecond}}

func parseAge(v string) (time.Duration, bool) {
	digits := strings.TrimRight(v, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || digits[0] == '+' {
		return 0, false
	}
	for _, u := range ageUnits {
		if u.name == v[len(digits):] {
			return time.Duration(n) * u.d, n <= int64(1<<63-1)/int64(u.d)
		}
	}
	return 0, false
}

func showAge(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	for _, u := range ageUnits[2:] { // minutes and hours are not Spanner's
		if d%u.d == 0 {
			return strconv.FormatInt(int64(d/u.d), 10) + u.name
		}
	}
	return ""
}

// String is the setting's canonical value.
func (s staleness) String() string {
	switch word := stalenessWords[s.mode]; s.mode {
	case exactAge, maxAge:
		return word + " " + showAge(s.age)
	case readAt, minAt:
		return word + " " + s.at.Time().Format(time.RFC3339Nano)
	default:
		return word
	}
}

// window is what a read may choose its timestamp from: lo is demanded, and where hi is
// above, anything up to hi will do. Neither hi nor what is chosen lies in the future,
// but lo may.
type window struct{ lo, hi truetime.Timestamp }

// window of s, not strong, at an instant.
func (s staleness) window(now truetime.Interval) window {
	passed := now.Earliest - 1
	switch s.mode {
	case exactAge:
		at := now.Latest.Add(-s.age)
		return window{at, at}
	case maxAge:
		// Less the age of the latest that it may be, so that the bound holds in true time.
		return window{now.Latest.Add(-s.age), passed}
	case minAt:
		return window{s.at, passed}
	}
	return window{s.at, s.at}
}

// maxFuture is how far ahead of now a read timestamp may lie; the read waits until then.
const maxFuture = 10 * time.Second

// admit checks w against what can be read at all.
func (c *Conn) admit(w window, now truetime.Interval) (window, error) {
	if w.lo > now.Latest && w.lo.Sub(now.Latest) > maxFuture {
		return w, sqlstate.Newf(sqlstate.InvalidParameterValue, "read timestamp %s lies more than %v in the future", w.lo.Time().Format(time.RFC3339Nano), maxFuture)
	}
	oldest := max(now.Earliest.Add(-c.eng.catalog.Horizon()), 1)
	if w.lo < oldest {
		if w.hi < oldest {
			return w, errTooOld(w.lo, oldest)
		}
		w.lo = oldest
	}
	return w, nil
}

// errTooOld refuses a timestamp whose versions may have been collected.
func errTooOld(at, oldest truetime.Timestamp) *sqlstate.Error {
	return sqlstate.Newf(sqlstate.SnapshotTooOld, "snapshot too old: read timestamp %s is past the version retention period", at.Time().Format(time.RFC3339Nano)).
		WithDetail("The oldest timestamp that can be read is %s.", oldest.Time().Format(time.RFC3339Nano))
}
