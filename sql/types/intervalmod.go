package types

import (
	"strconv"
	"strings"

	"github.com/spandb/spand/sql/sqlstate"
)

// An interval's modifier is PostgreSQL's: the fields it keeps as a bit mask in the
// upper half, the number of digits of its seconds in the lower.
const (
	fieldMonth  = 1 << 1
	fieldYear   = 1 << 2
	fieldDay    = 1 << 3
	fieldHour   = 1 << 10
	fieldMinute = 1 << 11
	fieldSecond = 1 << 12

	intervalFull = 0x7fff
	precisionAll = 0xffff
)

var intervalFields = []struct {
	name string
	mask int32
}{
	{"year", fieldYear}, {"month", fieldMonth}, {"day", fieldDay}, {"hour", fieldHour}, {"minute", fieldMinute}, {"second", fieldSecond},
	{"year to month", fieldYear | fieldMonth}, {"day to hour", fieldDay | fieldHour}, {"day to minute", fieldDay | fieldHour | fieldMinute},
	{"day to second", fieldDay | fieldHour | fieldMinute | fieldSecond}, {"hour to minute", fieldHour | fieldMinute},
	{"hour to second", fieldHour | fieldMinute | fieldSecond}, {"minute to second", fieldMinute | fieldSecond},
}

func intervalModIn(mods []string) (int32, error) {
	fields, prec := int32(intervalFull), int32(precisionAll)
	for _, m := range mods {
		m = strings.TrimSpace(m)
		if v, err := strconv.Atoi(m); err == nil {
			if v < 0 {
				return 0, sqlstate.Newf(sqlstate.InvalidParameterValue, "INTERVAL(%d) precision must not be negative", v)
			}
			prec = int32(min(v, 6))
			continue
		}
		found := false
		for _, f := range intervalFields {
			if f.name == m {
				fields, found = f.mask, true
			}
		}
		if !found {
			return 0, sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid INTERVAL type modifier")
		}
	}
	return fields<<16 | prec, nil
}

func intervalModText(mod int32) string {
	fields, prec := mod>>16&intervalFull, mod&precisionAll
	out := ""
	for _, f := range intervalFields {
		if f.mask == fields {
			out = " " + f.name
		}
	}
	if prec != precisionAll {
		out += "(" + strconv.Itoa(int(prec)) + ")"
	}
	return out
}

// lowestField is the unit of a bare number in an interval of this modifier.
func lowestField(mod int32) string {
	if mod < 0 {
		return "second"
	}
	fields := mod >> 16 & intervalFull
	if fields == intervalFull {
		return "second"
	}
	for _, f := range []struct {
		mask int32
		name string
	}{{fieldSecond, "second"}, {fieldMinute, "minute"}, {fieldHour, "hour"}, {fieldDay, "day"}, {fieldMonth, "month"}, {fieldYear, "year"}} {
		if fields&f.mask != 0 {
			return f.name
		}
	}
	return "second"
}

// coerceIntervalMod drops what lies below the modifier's last field and rounds the seconds.
func coerceIntervalMod(d Datum, mod int32) Datum {
	m, days, us := d.IntervalParts()
	fields, prec := mod>>16&intervalFull, mod&precisionAll
	if fields != intervalFull {
		switch lowestField(mod) {
		case "year":
			m, days, us = m/12*12, 0, 0
		case "month":
			days, us = 0, 0
		case "day":
			us = 0
		case "hour":
			us = us / Hour * Hour
		case "minute":
			us = us / Minute * Minute
		}
	}
	if prec != precisionAll {
		us = roundMicros(us, prec)
	}
	return Interval(m, days, us)
}
