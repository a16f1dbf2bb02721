package types

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Abbreviations of PostgreSQL's default set that people use, in hours east.
var zoneAbbrev = map[string]int{
	"utc": 0, "gmt": 0, "z": 0, "zulu": 0, "ut": 0, "wet": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6,
	"pst": -8, "pdt": -7, "cet": 1, "cest": 2, "met": 1, "mest": 2, "eet": 2, "eest": 3, "bst": 1, "msk": 3, "jst": 9, "hst": -10, "akst": -9, "akdt": -8, "west": 1, "kst": 9, "sgt": 8, "nzst": 12, "nzdt": 13, "aest": 10,
}

// ParseZone finds a time zone by name, abbreviation or offset ("+05:30", POSIX
// signs excepted).
func ParseZone(s string) (*time.Location, bool) {
	w := strings.ToLower(s)
	if w == "utc" || w == "gmt" || w == "z" || w == "zulu" {
		return time.UTC, true
	}
	if off, ok := parseOffset(s); ok {
		return fixedZone(off), true
	}
	if h, ok := zoneAbbrev[w]; ok {
		return fixedZone(h * 3600), true
	}
	if l, ok := zoneCache.Load(s); ok {
		return l.(*time.Location), true
	}
	l, ok := loadZone(s, w)
	if ok && zoneCount.Add(1) < maxZones {
		zoneCache.Store(s, l)
	}
	return l, ok
}

// zoneCache keeps what was read from the zone database, by the spelling that was
// asked for; spellings are many, so it stops growing at maxZones.
var (
	zoneCache sync.Map
	zoneCount atomic.Int64
)

const maxZones = 4096

func loadZone(s, w string) (*time.Location, bool) {
	if s == "" || w == "local" || strings.Contains(s, "..") || strings.HasPrefix(s, "/") {
		return nil, false
	}
	if l, err := time.LoadLocation(s); err == nil {
		return l, true
	}
	// Names are matched without regard to case: America/New_York.
	parts := strings.Split(w, "/")
	for i, p := range parts {
		sub := strings.Split(p, "_")
		for j, q := range sub {
			if q != "" {
				sub[j] = strings.ToUpper(q[:1]) + q[1:]
			}
		}
		parts[i] = strings.Join(sub, "_")
	}
	if l, err := time.LoadLocation(strings.Join(parts, "/")); err == nil {
		return l, true
	}
	return nil, false
}

func fixedZone(off int) *time.Location {
	if off == 0 {
		return time.UTC
	}
	return time.FixedZone("", off)
}

// parseOffset reads +hh, +hh:mm, +hhmm, +hh:mm:ss.
func parseOffset(s string) (int, bool) {
	if len(s) < 2 || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	neg := s[0] == '-'
	s = s[1:]
	var h, m, sec int
	num := func(t string) (int, bool) {
		v := 0
		if t == "" || len(t) > 4 {
			return 0, false
		}
		for i := 0; i < len(t); i++ {
			if t[i] < '0' || t[i] > '9' {
				return 0, false
			}
			v = v*10 + int(t[i]-'0')
		}
		return v, true
	}
	ok := true
	if f := strings.Split(s, ":"); len(f) > 1 {
		if len(f) > 3 {
			return 0, false
		}
		var o1, o2 bool
		h, o1 = num(f[0])
		m, o2 = num(f[1])
		ok = o1 && o2
		if len(f) == 3 {
			sec, o1 = num(f[2])
			ok = ok && o1
		}
	} else {
		h, ok = num(s)
		if len(s) > 2 {
			h, m = h/100, h%100
		}
	}
	if !ok || h > 15 || m > 59 || sec > 59 {
		return 0, false
	}
	off := h*3600 + m*60 + sec
	if neg {
		off = -off
	}
	return off, true
}
