package sql_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spandb/spand/sql/sqlstate"
)

// Errors point at what is wrong, also where a statement shares its tree with another
// text of its shape. The caret stands for nothing in the text: it marks what follows.
func TestErrorPositions(t *testing.T) {
	e, _ := newEngine(t)
	s := newSession(t, e)
	must(t, s, "create table p (a int primary key, b text)")
	for _, marked := range []string{
		"select a from p where a = ^'x'",
		"select  a  from p where a =   ^'longer'", // the same shape
		"insert into p (a, b) values (^'one', 'two')",
		"insert into p (b, a) values ('ü', ^'two')",
		"select ^'2024-13-01'::timestamp, 1",
		"select 1; select 2 + ^'b'",
		"explain analyze select * from p where a < ^'c'",
		"insert into p (a, ^c) values (1, 2)",
		"insert into p (a, ^a) values (1, 2)",
		"select ^c from p",
		"select * from ^q",
		"select 'x'::^nope",
		"update p set ^c = 1",
	} {
		before, after, _ := strings.Cut(marked, "^")
		err := s.Simple(context.Background(), before+after, &textResult{fs: s.FormatSettings()})
		var se *sqlstate.Error
		if !errors.As(err, &se) {
			t.Errorf("%s: %v", marked, err)
			continue
		}
		if want := len([]rune(before)) + 1; se.Position != want {
			t.Errorf("%s: %v at %d, want %d", marked, err, se.Position, want)
		}
	}
	// A text that is not the client's has no position in it.
	must(t, s, "prepare x as select 'y'::int")
	must(t, s, "begin; declare c cursor for select 'y'::timestamptz")
	for _, q := range []string{"fetch forward 1 /* as long as the text of DECLARE, and longer */ from c", "rollback; execute x", "create table d (a int default 'z')"} {
		err := s.Simple(context.Background(), q, &textResult{fs: s.FormatSettings()})
		var se *sqlstate.Error
		if !errors.As(err, &se) || !strings.Contains(se.Message, "invalid input syntax") || se.Position != 0 {
			t.Errorf("%s: %v at %d", q, err, se.Position)
		}
	}
}
