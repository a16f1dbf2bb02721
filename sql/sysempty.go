package sql

import (
	"maps"
	"slices"
)

// emptyTables are PostgreSQL's catalogs of what does not exist here: queries over
// them work and find nothing.
var emptyTables = map[string]string{
	"pg_inherits":              "inhrelid oid, inhparent oid, inhseqno int4, inhdetachpending bool",
	"pg_partitioned_table":     "partrelid oid, partstrat char, partnatts int2, partdefid oid, partattrs int2[], partclass oid[], partcollation oid[], partexprs node",
	"pg_policy":                "oid oid, polname name, polrelid oid, polcmd char, polpermissive bool, polroles oid[], polqual node, polwithcheck node",
	"pg_statistic_ext":         "oid oid, stxrelid oid, stxname name, stxnamespace oid, stxowner oid, stxstattarget int4, stxkeys int2[], stxkind char[], stxexprs node",
	"pg_publication":           "oid oid, pubname name, pubowner oid, puballtables bool, pubinsert bool, pubupdate bool, pubdelete bool, pubtruncate bool, pubviaroot bool",
	"pg_publication_rel":       "oid oid, prpubid oid, prrelid oid, prqual node, prattrs int2[]",
	"pg_publication_namespace": "oid oid, pnpubid oid, pnnspid oid",
	"pg_subscription":          "oid oid, subdbid oid, subname name, subowner oid, subenabled bool",
	"pg_trigger":               "oid oid, tgrelid oid, tgparentid oid, tgname name, tgfoid oid, tgtype int2, tgenabled char, tgisinternal bool, tgconstrrelid oid, tgconstrindid oid, tgconstraint oid, tgdeferrable bool, tginitdeferred bool, tgnargs int2, tgattr int2[], tgargs text, tgqual node, tgoldtable name, tgnewtable name",
	"pg_rewrite":               "oid oid, rulename name, ev_class oid, ev_type char, ev_enabled char, is_instead bool, ev_qual node, ev_action node",
	"pg_sequence":              "seqrelid oid, seqtypid oid, seqstart int8, seqincrement int8, seqmax int8, seqmin int8, seqcache int8, seqcycle bool",
	"pg_sequences":             "schemaname name, sequencename name, sequenceowner name, data_type text, start_value int8, min_value int8, max_value int8, increment_by int8, cycle bool, cache_size int8, last_value int8",
	"pg_depend":                "classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, refobjsubid int4, deptype char",
	"pg_shdepend":              "dbid oid, classid oid, objid oid, objsubid int4, refclassid oid, refobjid oid, deptype char",
	"pg_description":           "objoid oid, classoid oid, objsubid int4, description text",
	"pg_shdescription":         "objoid oid, classoid oid, description text",
	"pg_proc":                  "oid oid, proname name, pronamespace oid, proowner oid, prolang oid, procost float4, prorows float4, provariadic oid, prosupport text, prokind char, prosecdef bool, proleakproof bool, proisstrict bool, proretset bool, provolatile char, proparallel char, pronargs int2, pronargdefaults int2, prorettype oid, proargtypes oid[], proallargtypes oid[], proargmodes char[], proargnames text[], proargdefaults node, protrftypes oid[], prosrc text, probin text, prosqlbody node, proconfig text[], proacl text[]",
	"pg_language":              "oid oid, lanname name, lanowner oid, lanispl bool, lanpltrusted bool, lanplcallfoid oid, laninline oid, lanvalidator oid, lanacl text[]",
	"pg_aggregate":             "aggfnoid oid, aggkind char, aggnumdirectargs int2",
	"pg_operator":              "oid oid, oprname name, oprnamespace oid, oprowner oid, oprkind char, oprcanmerge bool, oprcanhash bool, oprleft oid, oprright oid, oprresult oid, oprcom oid, oprnegate oid, oprcode oid, oprrest oid, oprjoin oid",
	"pg_opclass":               "oid oid, opcmethod oid, opcname name, opcnamespace oid, opcowner oid, opcfamily oid, opcintype oid, opcdefault bool, opckeytype oid",
	"pg_opfamily":              "oid oid, opfmethod oid, opfname name, opfnamespace oid, opfowner oid",
	"pg_amop":                  "oid oid, amopfamily oid, amoplefttype oid, amoprighttype oid, amopstrategy int2, amoppurpose char, amopopr oid, amopmethod oid, amopsortfamily oid",
	"pg_amproc":                "oid oid, amprocfamily oid, amproclefttype oid, amprocrighttype oid, amprocnum int2, amproc oid",
	"pg_cast":                  "oid oid, castsource oid, casttarget oid, castfunc oid, castcontext char, castmethod char",
	"pg_conversion":            "oid oid, conname name, connamespace oid, conowner oid, conforencoding int4, contoencoding int4, conproc oid, condefault bool",
	"pg_enum":                  "oid oid, enumtypid oid, enumsortorder float4, enumlabel name",
	"pg_range":                 "rngtypid oid, rngsubtype oid, rngmultitypid oid, rngcollation oid, rngsubopc oid, rngcanonical oid, rngsubdiff oid",
	"pg_extension":             "oid oid, extname name, extowner oid, extnamespace oid, extrelocatable bool, extversion text, extconfig oid[], extcondition text[]",
	"pg_foreign_data_wrapper":  "oid oid, fdwname name, fdwowner oid, fdwhandler oid, fdwvalidator oid, fdwacl text[], fdwoptions text[]",
	"pg_foreign_server":        "oid oid, srvname name, srvowner oid, srvfdw oid, srvtype text, srvversion text, srvacl text[], srvoptions text[]",
	"pg_foreign_table":         "ftrelid oid, ftserver oid, ftoptions text[]",
	"pg_user_mapping":          "oid oid, umuser oid, umserver oid, umoptions text[]",
	"pg_auth_members":          "roleid oid, member oid, grantor oid, admin_option bool",
	"pg_db_role_setting":       "setdatabase oid, setrole oid, setconfig text[]",
	"pg_default_acl":           "oid oid, defaclrole oid, defaclnamespace oid, defaclobjtype char, defaclacl text[]",
	"pg_event_trigger":         "oid oid, evtname name, evtevent name, evtowner oid, evtfoid oid, evtenabled char, evttags text[]",
	"pg_largeobject_metadata":  "oid oid, lomowner oid, lomacl text[]",
	"pg_seclabel":              "objoid oid, classoid oid, objsubid int4, provider text, label text",
	"pg_seclabels":             "objoid oid, classoid oid, objsubid int4, objtype text, objnamespace oid, objname text, provider text, label text",
	"pg_statistic_ext_data":    "stxoid oid, stxdinherit bool",
	"pg_stats":                 "schemaname name, tablename name, attname name, inherited bool, null_frac float4, avg_width int4, n_distinct float4",
	"pg_transform":             "oid oid, trftype oid, trflang oid, trffromsql oid, trftosql oid",
	"pg_ts_config":             "oid oid, cfgname name, cfgnamespace oid, cfgowner oid, cfgparser oid",
	"pg_ts_dict":               "oid oid, dictname name, dictnamespace oid, dictowner oid, dicttemplate oid, dictinitoption text",
	"pg_ts_parser":             "oid oid, prsname name, prsnamespace oid, prsstart oid, prstoken oid, prsend oid, prsheadline oid, prslextype oid",
	"pg_ts_template":           "oid oid, tmplname name, tmplnamespace oid, tmplinit oid, tmpllexize oid",
	"pg_views":                 "schemaname name, viewname name, viewowner name, definition text",
	"pg_matviews":              "schemaname name, matviewname name, matviewowner name, tablespace name, hasindexes bool, ispopulated bool, definition text",
	"pg_prepared_xacts":        "transaction xid, gid text, prepared tstz, owner name, database name",
	"pg_available_extensions":  "name name, default_version text, installed_version text, comment text",
	"pg_locks":                 "locktype text, database oid, relation oid, page int4, tuple int2, virtualxid text, transactionid xid, classid oid, objid oid, objsubid int2, virtualtransaction text, pid int4, mode text, granted bool, fastpath bool, waitstart tstz",
	"pg_replication_slots":     "slot_name name, plugin name, slot_type text, database name, active bool",
	"pg_stat_user_tables":      "relid oid, schemaname name, relname name, seq_scan int8, n_live_tup int8, n_dead_tup int8, last_vacuum tstz, last_autovacuum tstz, last_analyze tstz, last_autoanalyze tstz",
	"pg_stat_replication":      "pid int4, usesysid oid, usename name, application_name text, client_addr text, state text",
	"pg_stat_ssl":              "pid int4, ssl bool, version text, cipher text, bits int4, client_dn text, client_serial text, issuer_dn text",
}

func (e *Engine) registerEmptyTables() {
	// In order of names, so that oids are the same on every node.
	for _, name := range slices.Sorted(maps.Keys(emptyTables)) {
		e.sysView("pg_catalog", name, 0, emptyTables[name], nil)
	}
}
