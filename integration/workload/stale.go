package workload

import "time"

// staleKind reads lists at timestamps in the past: at the timestamp of a commit exactly,
// just below it, and some time ago.
var staleKind = kind{name: "stale", optional: true, tables: listTables, step: (*client).staleStep, final: (*attempt).finalLists}

// pastCommits is how many timestamps a client remembers.
const pastCommits = 20

func (c *client) staleStep() {
	if len(c.past) == 0 || c.one(3) {
		t, err := c.attempt(func(a *attempt) error { return a.appendTo(a.aList()) })
		if err == nil && t.TS != 0 {
			if c.past = append(c.past, t.TS); len(c.past) > pastCommits {
				c.past = c.past[1:]
			}
		}
		return
	}
	c.attempt(func(a *attempt) error {
		staleness, at := a.staleness()
		if _, err := a.exec("set spand.read_only_staleness = '" + staleness + "'"); err != nil {
			return err
		}
		a.txn.Stale, a.txn.TS = true, at
		err := a.block(readOnly, func() error {
			for range 1 + a.rng.IntN(2) {
				if err := a.readLists("", a.someLists(4)...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			a.disconnect() // and with it the setting
			return err
		}
		_, err = a.exec("set spand.read_only_staleness = 'STRONG'")
		if err != nil {
			a.disconnect()
		}
		return nil
	})
}

// staleness returns a setting, and the timestamp at which it reads if that is known.
func (a *attempt) staleness() (string, int64) {
	if a.one(3) {
		d := time.Duration(a.rng.IntN(2000)) * time.Millisecond
		return "EXACT_STALENESS " + d.String(), 0
	}
	at := a.past[a.rng.IntN(len(a.past))]
	if a.one(2) {
		at--
	}
	return "READ_TIMESTAMP " + time.Unix(0, at).UTC().Format("2006-01-02T15:04:05.000000000Z"), at
}
