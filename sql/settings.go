package sql

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spandb/spand/sql/sqlstate"
	"github.com/spandb/spand/sql/types"
)

// setting is a run-time parameter.
type setting struct {
	name     string // as SHOW and ParameterStatus spell it
	def      string
	readOnly bool
	report   bool // clients hear of changes
	// check returns the canonical value; nil takes any.
	check func(v string) (string, error)
	desc  string
	// show returns the current value where it is not what was set.
	show func(c *Conn) string
	// set changes what is not the session's but the node's, at once and for all; what
	// is shown is then show's. nil: an ordinary setting.
	set func(c *Conn, v string, local bool) error
}

var settingDefs = make(map[string]*setting)

func define(s setting) { settingDefs[strings.ToLower(s.name)] = &s }

func invalidValue(name, v string) error {
	return sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid value for parameter %q: %q", name, v)
}

func boolean(name string) func(string) (string, error) {
	return func(v string) (string, error) {
		switch strings.ToLower(v) {
		case "on", "true", "yes", "1", "t", "y", "tru", "ye":
			return "on", nil
		case "off", "false", "no", "0", "f", "n", "of":
			return "off", nil
		}
		return "", sqlstate.Newf(sqlstate.InvalidParameterValue, "parameter %q requires a Boolean value", name)
	}
}

func oneOf(name string, values ...string) func(string) (string, error) {
	return func(v string) (string, error) {
		l := strings.ToLower(v)
		if slices.Contains(values, l) {
			return l, nil
		}
		return "", invalidValue(name, v).(*sqlstate.Error).WithHint("Available values: %s.", strings.Join(values, ", "))
	}
}

func integer(name string, lo, hi int) func(string) (string, error) {
	return func(v string) (string, error) {
		n, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil {
			return "", invalidValue(name, v)
		}
		if n < lo || n > hi {
			return "", sqlstate.Newf(sqlstate.InvalidParameterValue, "%d is outside the valid range for parameter %q (%d .. %d)", n, name, lo, hi)
		}
		return strconv.Itoa(n), nil
	}
}

// only accepts values that change nothing.
func only(name string, allowed ...string) func(string) (string, error) {
	return func(v string) (string, error) {
		for _, a := range allowed {
			if strings.EqualFold(a, v) {
				return allowed[0], nil
			}
		}
		return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "parameter %q cannot be set to %q", name, v)
	}
}

// duration canonicalises milliseconds or a number with a unit, as PostgreSQL shows it.
func duration(name string) func(string) (string, error) {
	return func(v string) (string, error) {
		ms, ok := milliseconds(v)
		if !ok || ms < 0 || ms > 1<<31-1 {
			return "", invalidValue(name, v).(*sqlstate.Error).WithHint(`Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".`)
		}
		switch {
		case ms == 0:
			return "0", nil
		case ms%86400000 == 0:
			return strconv.Itoa(ms/86400000) + "d", nil
		case ms%3600000 == 0:
			return strconv.Itoa(ms/3600000) + "h", nil
		case ms%60000 == 0:
			return strconv.Itoa(ms/60000) + "min", nil
		case ms%1000 == 0:
			return strconv.Itoa(ms/1000) + "s", nil
		}
		return strconv.Itoa(ms) + "ms", nil
	}
}

func milliseconds(v string) (int, bool) {
	v = strings.TrimSpace(v)
	i := len(v)
	for i > 0 && (v[i-1] < '0' || v[i-1] > '9') {
		i--
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(v[:i]), 64)
	if err != nil {
		return 0, false
	}
	unit, ok := map[string]float64{"": 1, "us": 0.001, "ms": 1, "s": 1000, "min": 60000, "h": 3600000, "d": 86400000}[strings.TrimSpace(v[i:])]
	return int(n*unit + 0.5), ok
}

func init() {
	define(setting{name: "server_version", readOnly: true, report: true, desc: "Shows the server version."})
	define(setting{name: "server_version_num", def: "150000", readOnly: true, desc: "Shows the server version as an integer."})
	define(setting{name: "server_encoding", def: "UTF8", readOnly: true, report: true, desc: "Shows the server (database) character set encoding."})
	define(setting{name: "client_encoding", def: "UTF8", report: true, desc: "Sets the client's character set encoding.",
		check: only("client_encoding", "UTF8", "UTF-8", "unicode", "sql_ascii")})
	define(setting{name: "DateStyle", def: "ISO, MDY", report: true, desc: "Sets the display format for date and time values.", check: checkDateStyle})
	define(setting{name: "IntervalStyle", def: "postgres", report: true, desc: "Sets the display format for interval values.",
		check: only("IntervalStyle", "postgres")})
	define(setting{name: "TimeZone", def: "UTC", report: true, desc: "Sets the time zone for displaying and interpreting time stamps.", check: checkTimeZone})
	define(setting{name: "extra_float_digits", def: "1", desc: "Sets the number of digits displayed for floating-point values.", check: integer("extra_float_digits", -15, 3)})
	define(setting{name: "bytea_output", def: "hex", desc: "Sets the output format for bytea.", check: oneOf("bytea_output", "hex", "escape")})
	define(setting{name: "application_name", report: true, desc: "Sets the application name to be reported in statistics and logs."})
	define(setting{name: "statement_timeout", def: "0", desc: "Sets the maximum allowed duration of any statement.", check: duration("statement_timeout")})
	define(setting{name: "lock_timeout", def: "0", desc: "Sets the maximum allowed duration of any wait for a lock.", check: duration("lock_timeout")})
	define(setting{name: "idle_in_transaction_session_timeout", def: "1min", desc: "Sets the maximum allowed idle time between queries, when in a transaction.",
		check: duration("idle_in_transaction_session_timeout")})
	define(setting{name: "idle_session_timeout", def: "0", desc: "Sets the maximum allowed idle time between queries, when not in a transaction.", check: duration("idle_session_timeout")})
	iso := oneOf("transaction_isolation", "serializable", "repeatable read", "read committed", "read uncommitted")
	serializable := func(v string) (string, error) {
		if _, err := iso(v); err != nil {
			return "", err
		}
		return "serializable", nil // every level asked for is given the strictest
	}
	define(setting{name: "default_transaction_isolation", def: "serializable", desc: "Sets the transaction isolation level of each new transaction.", check: serializable})
	define(setting{name: "transaction_isolation", def: "serializable", desc: "Sets the current transaction's isolation level.", check: serializable})
	define(setting{name: "default_transaction_read_only", def: "off", report: true, desc: "Sets the default read-only status of new transactions.", check: boolean("default_transaction_read_only")})
	define(setting{name: "transaction_read_only", def: "off", desc: "Sets the current transaction's read-only status.", check: boolean("transaction_read_only"),
		show: func(c *Conn) string { return onOff(c.txn.readOnly) }})
	define(setting{name: "default_transaction_deferrable", def: "off", desc: "Sets the default deferrable status of new transactions.", check: boolean("default_transaction_deferrable")})
	define(setting{name: "transaction_deferrable", def: "off", desc: "Whether to defer a read-only serializable transaction until it can be executed with no possible serialization failures.", check: boolean("transaction_deferrable")})
	define(setting{name: "search_path", def: `"$user", public`, desc: "Sets the schema search order for names that are not schema-qualified."})
	define(setting{name: "standard_conforming_strings", def: "on", report: true, desc: "Causes '...' strings to treat backslashes literally.", check: only("standard_conforming_strings", "on", "true", "1", "yes")})
	define(setting{name: "escape_string_warning", def: "on", desc: "Warn about backslash escapes in ordinary string literals.", check: boolean("escape_string_warning")})
	define(setting{name: "backslash_quote", def: "safe_encoding", desc: "Sets whether \"\\'\" is allowed in string literals."})
	define(setting{name: "client_min_messages", def: "notice", desc: "Sets the message levels that are sent to the client.",
		check: oneOf("client_min_messages", "debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning", "error")})
	define(setting{name: "synchronous_commit", def: "on", desc: "Sets the current transaction's synchronization level.",
		check: oneOf("synchronous_commit", "on", "off", "local", "remote_write", "remote_apply")})
	define(setting{name: "is_superuser", def: "on", readOnly: true, report: true, desc: "Shows whether the current user is a superuser."})
	define(setting{name: "session_authorization", readOnly: true, report: true, desc: "Sets the session user name."})
	define(setting{name: "in_hot_standby", def: "off", readOnly: true, report: true, desc: "Shows whether hot standby is currently active."})
	define(setting{name: "integer_datetimes", def: "on", readOnly: true, report: true, desc: "Shows whether datetimes are integer based."})
	define(setting{name: "max_identifier_length", def: "63", readOnly: true, desc: "Shows the maximum identifier length."})
	define(setting{name: "max_index_keys", def: "32", readOnly: true, desc: "Shows the maximum number of index keys."})
	define(setting{name: "block_size", def: "8192", readOnly: true, desc: "Shows the size of a disk block."})
	define(setting{name: "lc_collate", def: "C", readOnly: true, desc: "Shows the collation order locale."})
	define(setting{name: "lc_ctype", def: "C.UTF-8", readOnly: true, desc: "Shows the character classification and case conversion locale."})
	define(setting{name: "lc_messages", def: "C", desc: "Sets the language in which messages are displayed."})
	define(setting{name: "lc_monetary", def: "C", desc: "Sets the locale for formatting monetary amounts."})
	define(setting{name: "lc_numeric", def: "C", desc: "Sets the locale for formatting numbers."})
	define(setting{name: "lc_time", def: "C", desc: "Sets the locale for formatting date and time values."})
	define(setting{name: "row_security", def: "on", desc: "Enable row security.", check: boolean("row_security")})
	define(setting{name: "check_function_bodies", def: "on", desc: "Check routine bodies during CREATE FUNCTION and CREATE PROCEDURE.", check: boolean("check_function_bodies")})
	define(setting{name: "default_table_access_method", def: "heap", desc: "Sets the default table access method for new tables."})
	define(setting{name: "default_tablespace", desc: "Sets the default tablespace to create tables and indexes in."})
	define(setting{name: "default_with_oids", def: "off", desc: "Sets the default WITH OIDS status.", check: only("default_with_oids", "off", "false")})
	define(setting{name: "xmloption", def: "content", desc: "Sets whether XML data in implicit parsing and serialization operations is to be considered as documents or content fragments."})
	define(setting{name: "xmlbinary", def: "base64", desc: "Sets how binary values are to be encoded in XML."})
	define(setting{name: "max_connections", def: "512", readOnly: true, desc: "Sets the maximum number of concurrent connections."})
	define(setting{name: "wal_level", def: "logical", readOnly: true, desc: "Sets the level of information written to the WAL."})
	define(setting{name: "password_encryption", def: "scram-sha-256", desc: "Chooses the algorithm for encrypting passwords."})
	define(setting{name: "compute_query_id", def: "auto", desc: "Enables in-core computation of query identifiers."})
	for _, n := range []string{"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_nestloop", "enable_sort", "enable_hashagg", "enable_material", "jit", "geqo", "debug_parallel_query"} {
		define(setting{name: n, def: "on", desc: "Accepted and ignored.", check: boolean(n)})
	}
	for n, d := range map[string]string{"work_mem": "4MB", "maintenance_work_mem": "64MB", "effective_cache_size": "4GB", "max_parallel_workers_per_gather": "0", "random_page_cost": "4", "seq_page_cost": "1", "cpu_tuple_cost": "0.01", "vacuum_cost_delay": "0"} {
		define(setting{name: n, def: d, desc: "Accepted and ignored."})
	}
	define(setting{name: "spand.commit_timestamp", readOnly: true, desc: "Shows the commit timestamp of this session's last committed read-write transaction.",
		show: func(c *Conn) string { return showTimestamp(c.lastCommit) }})
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func checkDateStyle(v string) (string, error) {
	order := "MDY"
	for _, p := range strings.Split(v, ",") {
		switch strings.ToLower(strings.TrimSpace(p)) {
		case "iso", "default", "":
		case "mdy", "us", "noneuro", "noneuropean":
			order = "MDY"
		case "dmy", "euro", "european":
			order = "DMY"
		case "ymd":
			order = "YMD"
		case "sql", "german", "postgres":
			return "", sqlstate.Newf(sqlstate.FeatureNotSupported, "DateStyle %q is not supported: output is always ISO", v)
		default:
			return "", invalidValue("DateStyle", v)
		}
	}
	return "ISO, " + order, nil
}

func checkTimeZone(v string) (string, error) {
	switch strings.ToLower(v) {
	case "default", "local":
		return "UTC", nil
	}
	if _, ok := location(v); !ok {
		return "", sqlstate.Newf(sqlstate.InvalidParameterValue, "invalid value for parameter \"TimeZone\": %q", v)
	}
	return v, nil
}

func location(v string) (*time.Location, bool) { return types.ParseZone(v) }

// sessionSettings are one session's values.
type sessionSettings struct {
	vals     map[string]string // by lower-case name, where not the default
	defaults map[string]string // from start-up parameters: what RESET goes back to

	// What is derived from them, kept current by changed.
	format     types.FormatSettings
	searchPath []string
	stmtMS     int
	idleMS     int
	lockMS     int
	staleness  staleness
	fence      fence
}

func (c *Conn) initSettings(o SessionOptions) error {
	s := &c.set
	s.vals = make(map[string]string)
	s.defaults = map[string]string{
		"server_version":        c.eng.serverVersion(),
		"session_authorization": o.User,
		"application_name":      o.ApplicationName,
	}
	for k, v := range o.Settings {
		d, canon, err := c.checkSetting(k, v)
		if err == nil && d.set != nil {
			err = sqlstate.Newf("55P02", "parameter %q cannot be set at connection start", d.name)
		}
		if err != nil {
			return err
		}
		s.defaults[strings.ToLower(d.name)] = canon
	}
	c.settingsChanged()
	return nil
}

// checkSetting finds a setting that may be set and its canonical value.
func (c *Conn) checkSetting(name, v string) (*setting, string, error) {
	d := settingDefs[strings.ToLower(name)]
	if d == nil {
		// Names with a dot belong to extensions and applications: any may be set.
		if i := strings.IndexByte(name, '.'); i > 0 && !strings.HasPrefix(strings.ToLower(name), "spand.") {
			return &setting{name: strings.ToLower(name)}, v, nil
		}
		return nil, "", sqlstate.Newf(sqlstate.UndefinedObject, "unrecognized configuration parameter %q", name)
	}
	if d.readOnly {
		return nil, "", sqlstate.Newf("55P02", "parameter %q cannot be changed", d.name)
	}
	if d.check != nil {
		canon, err := d.check(v)
		return d, canon, err
	}
	return d, v, nil
}

// Setting returns a run-time setting's current value.
func (c *Conn) Setting(name string) (string, bool) {
	key := strings.ToLower(name)
	d := settingDefs[key]
	if d != nil && d.show != nil {
		return d.show(c), true
	}
	if v, ok := c.set.vals[key]; ok {
		return v, true
	}
	if v, ok := c.set.defaults[key]; ok {
		return v, true
	}
	if d == nil {
		return "", false
	}
	return d.def, true
}

// SetSetting changes a setting, for the transaction only when local.
func (c *Conn) SetSetting(name, value string, local bool) error {
	d, canon, err := c.checkSetting(name, value)
	if err != nil {
		return err
	}
	if t := &c.txn; d.name == stalenessSetting && t.explicit && t.kv != nil && t.kv.ReadOnly() {
		return sqlstate.Newf(sqlstate.ActiveTransaction, "%s must be set before any query of a read-only transaction", d.name)
	}
	if d.set != nil {
		return d.set(c, value, local)
	}
	c.change(strings.ToLower(d.name), &canon, local)
	return nil
}

// resetSetting goes back to the session's default; "all" resets every setting of the
// session, and so leaves the node's alone.
func (c *Conn) resetSetting(name string, local bool) error {
	key := strings.ToLower(name)
	if key == "all" {
		for k := range c.set.vals {
			c.change(k, nil, local)
		}
		return nil
	}
	if d := settingDefs[key]; d == nil && !strings.Contains(key, ".") {
		return sqlstate.Newf(sqlstate.UndefinedObject, "unrecognized configuration parameter %q", name)
	} else if d != nil && d.readOnly {
		return sqlstate.Newf("55P02", "parameter %q cannot be changed", d.name)
	} else if d != nil && d.set != nil {
		return d.set(c, d.def, local)
	}
	c.change(key, nil, local)
	return nil
}

// change sets or (nil) removes a value and keeps what a rollback or the end of the
// transaction goes back to.
func (c *Conn) change(key string, v *string, local bool) {
	t := &c.txn
	if t.open {
		if t.settings == nil {
			t.settings = maps.Clone(c.set.vals)
		}
		if local {
			if t.locals == nil {
				t.locals = make(map[string]*string)
			}
			if _, ok := t.locals[key]; !ok {
				if old, had := c.set.vals[key]; had {
					t.locals[key] = &old
				} else {
					t.locals[key] = nil
				}
			}
		} else {
			delete(t.locals, key)
		}
	}
	if v == nil {
		delete(c.set.vals, key)
	} else {
		c.set.vals[key] = *v
	}
	c.settingsChanged()
	if d := settingDefs[key]; d != nil && d.report {
		c.reported = append(c.reported, d)
	}
}

// settingsChanged computes anew what is derived from the settings.
func (c *Conn) settingsChanged() {
	get := func(n string) string { v, _ := c.Setting(n); return v }
	s := &c.set
	s.format = types.DefaultFormat
	s.format.DateStyle = get("datestyle")
	s.format.IntervalStyle = get("intervalstyle")
	s.format.ByteaHex = get("bytea_output") == "hex"
	s.format.ExtraFloatDigits, _ = strconv.Atoi(get("extra_float_digits"))
	s.format.Names, s.format.Now = c, c.now
	s.format.Location, _ = location(get("timezone"))
	s.stmtMS, _ = milliseconds(get("statement_timeout"))
	s.idleMS, _ = milliseconds(get("idle_in_transaction_session_timeout"))
	s.lockMS, _ = milliseconds(get("lock_timeout"))
	s.staleness, _ = parseStaleness(get(stalenessSetting))
	s.fence, _ = parseFence(get(fenceSetting))
	s.searchPath = s.searchPath[:0:0]
	for _, p := range splitPath(get("search_path")) {
		if p == "$user" {
			p = c.opts.User
		}
		if p != "" {
			s.searchPath = append(s.searchPath, p)
		}
	}
	c.planSpace = c.dbName + "\x00" + strings.Join(s.searchPath, "\x00")
}

// splitPath splits a search_path value: names, quoted or folded, with commas between.
func splitPath(v string) []string {
	var out []string
	for _, p := range strings.Split(v, ",") {
		p = strings.TrimSpace(p)
		if len(p) >= 2 && p[0] == '"' && p[len(p)-1] == '"' {
			p = strings.ReplaceAll(p[1:len(p)-1], `""`, `"`)
		} else {
			p = strings.ToLower(p)
		}
		out = append(out, p)
	}
	return out
}

// FormatSettings are what text output of datums depends on.
func (c *Conn) FormatSettings() *types.FormatSettings { return &c.set.format }

// IdleInTransactionTimeout in milliseconds, 0: none.
func (c *Conn) IdleInTransactionTimeout() int { return c.set.idleMS }

// StatementTimeout in milliseconds, 0: none.
func (c *Conn) StatementTimeout() int { return c.set.stmtMS }

// settingNames lists every known setting in order.
func settingNames() []string {
	names := slices.Collect(maps.Keys(settingDefs))
	slices.Sort(names)
	return names
}
