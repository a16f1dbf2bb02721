package lift

import (
	"testing"

	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/spandb/spand/sql/parse/pgast"
	"github.com/spandb/spand/sql/parse/respell"
	"github.com/spandb/spand/sql/parse/tidbdrv"
	"github.com/spandb/spand/sql/sqlstate"
)

// TestForeignNodes: what respell cannot have written is an internal error, not
// a guess and not a panic.
func TestForeignNodes(t *testing.T) {
	for _, text := range []string{
		"SELECT `a` << `b`",
		"SELECT `a` FROM `t`",
		"SELECT @x",
		"SELECT @7",
		"SELECT 1",
		"SELECT `f\x009`()",
		"SELECT `\x000`(`a`)",
		"SELECT `a` LIMIT 3",
		"INSERT INTO `t` VALUES (1)",
		"INSERT INTO `t\x000` SET `a` = 1",
		"UPDATE `t` SET `a` = 1",
		"DELETE FROM `t`",
		"CREATE TABLE `t` (`a` INT)",
		"CREATE INDEX `i` ON `t` (`a`)",
		"ALTER TABLE `t` ADD COLUMN `a` INT",
		"SPLIT TABLE `t` BY (1)",
		"WITH `a` AS (SELECT 1) SELECT 1",
		"SELECT COUNT(*)",
		"TRUNCATE TABLE `t`",
		"SELECT `a` UNION SELECT `b` UNION SELECT `c`",
		"SELECT MAX(`a`) OVER ()",
	} {
		err := tidbdrv.Parse(text, func(stmts []ast.StmtNode) {
			l := New(&respell.Result{Text: text, Notes: []any{&respell.TailNote{}}}, stmts)
			s, err := Run(l.Root)
			if s != nil || sqlstate.CodeOf(err) != sqlstate.InternalError {
				t.Errorf("%q: %v %v", text, s, err)
			}
		})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
}

// TestMissingParts: a note that points at a part that is not there.
func TestMissingParts(t *testing.T) {
	text := "INSERT INTO `t\x000` VALUES ()"
	notes := []any{&respell.InsertNote{Table: pgast.Name{"t"}, Defaults: true, Returning: 1}}
	err := tidbdrv.Parse(text, func(stmts []ast.StmtNode) {
		if _, err := Run(New(&respell.Result{Text: text, Notes: notes}, stmts).Root); sqlstate.CodeOf(err) != sqlstate.InternalError {
			t.Errorf("got %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
