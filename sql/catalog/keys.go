package catalog

import (
	"encoding/binary"

	"github.com/spandb/spand/internal/keys"
)

// The catalog's part of the system keyspace: SystemPrefix, 'c', a letter, then
//
//	v                       the schema version
//	i                       the id counter
//	b <id>                  a database
//	s <id>                  a schema
//	t <id>                  a table
//	n <parent> <name> 00    a name: databases have parent 0, schemas their
//	                        database, relations their schema
//	j <physical id>         a cleanup job
//
// Ids are eight bytes, big-endian. Names hold no NUL. So no key is a prefix of another.
var (
	versionKey = keys.Key{keys.SystemPrefix, 'c', 'v'}
	counterKey = keys.Key{keys.SystemPrefix, 'c', 'i'}
)

func idKey(letter byte, id ID) keys.Key {
	return binary.BigEndian.AppendUint64(keys.Key{keys.SystemPrefix, 'c', letter}, uint64(id))
}

func databaseKey(id ID) keys.Key { return idKey('b', id) }
func schemaKey(id ID) keys.Key   { return idKey('s', id) }
func tableKey(id ID) keys.Key    { return idKey('t', id) }
func jobKey(phys ID) keys.Key    { return idKey('j', phys) }

func nameKey(parent ID, name string) keys.Key {
	return append(append(idKey('n', parent), name...), 0)
}

func letterSpan(letter byte) keys.Span {
	return keys.Span{
		Start: keys.Key{keys.SystemPrefix, 'c', letter},
		End:   keys.Key{keys.SystemPrefix, 'c', letter + 1},
	}
}
