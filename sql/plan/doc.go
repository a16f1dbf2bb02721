// Package plan turns a statement's tree into a physical plan: it resolves names
// against a catalog view, binds expressions through package expr, chooses access
// paths and join orders, and yields immutable structures that package exec runs.
//
// # The frame
//
// All relations of one SELECT share one row of datums, the frame: relation r owns
// the slots [r.Off, r.Off+width). Expressions are bound once against it, and every
// FROM operator just fills its slots, so that neither join order nor nesting needs
// columns to be renumbered. After aggregation the frame is followed by one slot per
// aggregate; columns that a grouped query may use are those of the group's first row.
//
// # Plans and constants
//
// Constants are read by slot when a plan runs, so one plan serves every statement of
// a shape. A plan whose form does depend on a constant's value says so
// (Plan.ValueDependent) and is not shared. Plans name the descriptors they were made
// from (Plan.Uses), which the session hands to the catalog (B2).
//
// Planning starts no goroutine and takes no lock; a Plan may be run by any number of
// sessions at once.
package plan
