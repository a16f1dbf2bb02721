package state

import "testing"

// Who may hear of an event that is remembered is said by the ACL of the node while that is there, and by the one that it had
// when it is gone; the state says it after a restart too (2.3, 2.5).
func Test2_5_WhoMayHearOfTheRemembered(t *testing.T) {
	s := New(FirstCell)
	const x = "/ls/local/x"
	for file, principal := range map[string]string{"anns": "ann", "bobs": "bob"} {
		must(t, s, &Command{Kind: SetContents, Path: "/ls/local/acl/" + file, Create: CreateIfAbsent, Contents: []byte(principal)}, second)
	}
	check := func(when, want string) {
		t.Helper()
		s = restored(t, s)
		events, complete := s.EventsAfter(0, x)
		if !complete {
			t.Fatal("incomplete")
		}
		got := ""
		for i := range events {
			for _, who := range []string{"ann", "bob"} {
				if s.MayHearOf(who, &events[i]) {
					got += who[:1]
				} else {
					got += "-"
				}
			}
			got += " "
		}
		if got != want {
			t.Errorf("%s: %q, not %q", when, got, want)
		}
	}
	set := &Command{Kind: SetContents, Path: x, Create: CreateIfAbsent}
	readers := func(file string) { must(t, s, &Command{Kind: SetACL, Path: x, ACL: &ACL{Read: file}}, second) }
	must(t, s, set, second)
	check("open", "ab ")
	readers("anns")
	check("ann's", "a- ")
	must(t, s, set, second)
	readers("bobs")
	must(t, s, set, second)
	check("bob's", "-b -b -b ")
	must(t, s, &Command{Kind: Delete, Path: x}, second)
	check("gone", "ab a- -b ab ")
	must(t, s, set, second)
	check("made again", "ab a- -b ab ab ")
	for _, may := range []bool{s.MayHear("ann", x, 0), s.MayHear("ann", x, 1), s.MayHear("ann", x+"y", 0)} {
		if !may {
			t.Error("ann may not hear of what everybody may read, or what is not there")
		}
	}
	readers("bobs")
	n := s.nodes[x].instance
	if s.MayHear("ann", x, 0) || s.MayHear("ann", x, n) || !s.MayHear("ann", x, n-1) || !s.MayHear("bob", x, n) {
		t.Error("who may hear is not who may read")
	}
}
