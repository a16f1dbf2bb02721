package parse

import (
	"errors"
	"fmt"

	"github.com/spandb/spand/sql/sqlstate"
)

// verdict is "ok", or position, SQLSTATE and message of the error.
func verdict(sql string) string {
	_, err := Parse(sql)
	var e *sqlstate.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return fmt.Sprintf("%d %s %s", e.Position, e.Code, e.Message)
	}
	return "? " + err.Error()
}
