package state

import "testing"

// A cell keeps the group that it was given first, whoever else was asked for it at the same
// time; and what is captured tells how far time had come (T2).
func TestCellsKeepTheirGroup(t *testing.T) {
	s := New(FirstCell)
	set := func(index uint64, name string, group uint64) (Result, Changes) {
		return s.Apply(&Command{Kind: SetCell, Cell: Cell{Name: name, Group: group, Replicas: []Replica{{1, 1}}}}, index, 1010, nil)
	}
	if res, ch := set(11, "a", 7); res.Err != nil || len(ch.Cells) != 1 {
		t.Fatalf("%+v, %+v", res, ch)
	}
	for name, group := range map[string]uint64{"a": 8, FirstCell: 9} {
		if res, ch := set(12, name, group); res.Err != nil || len(ch.Cells) != 0 {
			t.Errorf("%s again: %+v, %+v", name, res, ch)
		}
	}
	back, err := Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if list := back.Cells(); len(list) != 1 || list[0].Name != "a" || list[0].Group != 7 {
		t.Errorf("cells %+v", list)
	}
	if back.Highest() != 1010 {
		t.Errorf("highest timestamp %d", back.Highest())
	}
}
