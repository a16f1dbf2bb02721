package catalog

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/spandb/spand/internal/keys"
	"github.com/spandb/spand/sql/types"
)

func sample() *Table {
	return &Table{
		ID: 16384, DB: 1, Schema: PublicSchemaID, Name: "t", Version: 3, NextColumn: 4,
		Columns: []Column{
			{ID: 1, Name: "a", Type: types.T(types.OIDInt4), NotNull: true},
			{ID: 3, Name: "b", Type: types.Type{OID: types.OIDVarchar, Mod: 14}, Default: "'x'"},
		},
		Indexes: []Index{
			{ID: 16385, Phys: 16386, Name: "t_pkey", Columns: []IndexColumn{{Column: 1}}, Unique: true, Primary: true, Constraint: true},
			{ID: 16387, Phys: 16388, Name: "t_b_idx", Columns: []IndexColumn{{Column: 3, Desc: true}}},
		},
	}
}

func TestTableCodec(t *testing.T) {
	want := sample()
	got, err := decodeTable(encode(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	c := want.Clone()
	c.Columns[0].Name, c.Indexes[0].Columns[0].Column = "z", 3
	if want.Columns[0].Name != "a" || want.Indexes[0].Columns[0].Column != 1 {
		t.Fatal("a clone shares memory with its original")
	}
	newer := encode(want)
	newer[0] = fencedVersion + 1
	fenced := want.Clone()
	fenced.FencedBy = "/ls/local/jobs/x"
	if got, err := decodeTable(encode(fenced)); err != nil || !reflect.DeepEqual(got, fenced) {
		t.Fatalf("%+v, %v", got, err)
	}
	// A program without fences must refuse it, and a fence must not get lost.
	hidden, claimed := encode(fenced), encode(want)
	hidden[0], claimed[0] = formatVersion, fencedVersion
	if encode(fenced)[0] == formatVersion {
		t.Error("older programs would take a fenced table for an ordinary one")
	}
	for _, bad := range [][]byte{nil, {}, newer, hidden, claimed, encode(want)[:20], encode(&Table{}), []byte("\x01{}")} {
		if _, err := decodeTable(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// No catalog key is a prefix of another (internal/keys).
func TestKeysArePrefixFree(t *testing.T) {
	ks := []keys.Key{versionKey, counterKey, databaseKey(1), schemaKey(1), tableKey(1), tableKey(256), jobKey(1),
		nameKey(0, "a"), nameKey(0, "ab"), nameKey(0, "a\x01"), nameKey(1, ""), nameKey(1, "a")}
	for i, a := range ks {
		for j, b := range ks {
			if i != j && bytes.HasPrefix(b, a) {
				t.Errorf("%x is a prefix of %x", a, b)
			}
		}
	}
}

// A descriptor as it was written before tables could be fenced.
func TestTableOfAnOlderFormat(t *testing.T) {
	old := "\x01" + `{"ID":16384,"DB":1,"Schema":2200,"Name":"t","Version":1,"Columns":[{"ID":1,"Name":"a","Type":{"OID":23,"Mod":-1},"NotNull":true}],"NextColumn":2,` +
		`"Indexes":[{"ID":16385,"Phys":16386,"Name":"t_pkey","Columns":[{"Column":1}],"Unique":true,"Primary":true,"Constraint":true}]}`
	d, err := decodeTable([]byte(old))
	if err != nil || d.Name != "t" || d.FencedBy != "" {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := encode(d); string(got) != old {
		t.Errorf("an unfenced table is written as\n%s\nand not as before\n%s", got, old)
	}
}

func FuzzDecodeTable(f *testing.F) {
	f.Add(encode(sample()))
	f.Add([]byte{formatVersion})
	fenced := sample()
	fenced.FencedBy = "/ls/local/jobs/x"
	f.Add(encode(fenced))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeTable(b)
		if err != nil {
			return
		}
		again, err := decodeTable(encode(d))
		if err != nil || again.Name != d.Name || len(again.Columns) != len(d.Columns) {
			t.Fatalf("does not survive a second time: %v", err)
		}
		_, _ = d.Primary(), d.HiddenColumn()
	})
}

func FuzzDecodeCounter(f *testing.F) {
	f.Add(encodeCounter(77))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeCounter(b); err == nil && !bytes.Equal(encodeCounter(v), b) {
			t.Fatal("not canonical")
		}
	})
}
