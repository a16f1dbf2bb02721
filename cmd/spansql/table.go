package main

import (
	"bufio"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// table is one result set, printed as psql prints it.
type table struct {
	header []string
	right  []bool // by column: aligned to the right
	rows   [][]string
}

// displayWidth counts the columns that s takes on a terminal.
func displayWidth(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case r < 0x20 || r == 0x7f || unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r) || unicode.Is(unicode.Cf, r):
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

// wide reports the ranges of East Asian wide characters and emoji.
func wide(r rune) bool {
	return r >= 0x1100 && (r <= 0x115f || r >= 0x2e80 && r <= 0x303e || r >= 0x3041 && r <= 0xa4cf ||
		r >= 0xac00 && r <= 0xd7a3 || r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f ||
		r >= 0xff00 && r <= 0xff60 || r >= 0xffe0 && r <= 0xffe6 || r >= 0x1f300 && r <= 0x1f64f ||
		r >= 0x1f900 && r <= 0x1f9ff || r >= 0x20000 && r <= 0x3fffd)
}

// cellLines cuts a value into its lines and makes control characters visible,
// so that data cannot move the cursor.
func cellLines(s string) []string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = visible(l)
	}
	return lines
}

func visible(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	col := 0
	for _, r := range s {
		switch {
		case r == '\t':
			for ok := true; ok; ok = col%8 != 0 {
				b.WriteByte(' ')
				col++
			}
			continue
		case r == '\r':
			b.WriteString(`\r`)
			col += 2
			continue
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02X`, r)
			col += 4
			continue
		case r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, `\u%04X`, r)
			col += 6
			continue
		}
		b.WriteRune(r)
		col += displayWidth(string(r))
	}
	return b.String()
}

func spaces(w *bufio.Writer, n int) {
	for ; n > 0; n-- {
		w.WriteByte(' ')
	}
}

func repeat(w *bufio.Writer, c byte, n int) {
	for ; n > 0; n-- {
		w.WriteByte(c)
	}
}

// print writes aligned columns under a header, and the number of rows.
// Write errors stick in w.
func (t *table) print(w *bufio.Writer) {
	cols := len(t.header)
	width := make([]int, cols)
	cells := make([][][]string, len(t.rows)+1)
	measure := func(row []string) [][]string {
		out := make([][]string, len(row))
		for i, v := range row {
			out[i] = cellLines(v)
			for _, l := range out[i] {
				width[i] = max(width[i], displayWidth(l))
			}
		}
		return out
	}
	cells[0] = measure(t.header)
	for i, r := range t.rows {
		cells[i+1] = measure(r)
	}
	for i, row := range cells {
		height := 1
		for _, c := range row {
			height = max(height, len(c))
		}
		for line := range height {
			for j, c := range row {
				if j > 0 {
					w.WriteByte('|')
				}
				s := ""
				if line < len(c) {
					s = c[line]
				}
				pad := width[j] - displayWidth(s)
				more := line+1 < len(c)
				w.WriteByte(' ')
				switch {
				case i == 0:
					spaces(w, pad/2)
					w.WriteString(s)
					spaces(w, (pad+1)/2)
				case t.right[j]:
					spaces(w, pad)
					w.WriteString(s)
				default:
					w.WriteString(s)
					if more || j < cols-1 {
						spaces(w, pad)
					}
				}
				switch {
				case more:
					w.WriteByte('+')
				case i == 0 || j < cols-1:
					w.WriteByte(' ')
				}
			}
			if cols > 0 || i > 0 {
				w.WriteByte('\n')
			}
		}
		if i == 0 {
			for j, n := range width {
				if j > 0 {
					w.WriteByte('+')
				}
				repeat(w, '-', n+2)
			}
			if cols == 0 {
				w.WriteString("--")
			}
			w.WriteByte('\n')
		}
	}
	if len(t.rows) == 1 {
		w.WriteString("(1 row)\n\n")
	} else {
		fmt.Fprintf(w, "(%d rows)\n\n", len(t.rows))
	}
}

// printExpanded writes one line for each value (\x).
func (t *table) printExpanded(w *bufio.Writer) {
	if len(t.rows) == 0 {
		w.WriteString("(0 rows)\n\n")
		return
	}
	hw, dw := 0, 0
	names := make([]string, len(t.header))
	for i, h := range t.header {
		names[i] = visible(strings.ReplaceAll(h, "\n", " "))
		hw = max(hw, displayWidth(names[i]))
	}
	for _, r := range t.rows {
		for _, v := range r {
			for _, l := range cellLines(v) {
				dw = max(dw, displayWidth(l))
			}
		}
	}
	for i, r := range t.rows {
		t.recordLine(w, i+1, hw, dw)
		for j, v := range r {
			lines := cellLines(v)
			for k, l := range lines {
				name, mark := "", "|"
				if k == 0 {
					name = names[j]
				}
				w.WriteString(name)
				spaces(w, hw-displayWidth(name))
				w.WriteString(" " + mark)
				if l != "" || k+1 < len(lines) {
					w.WriteString(" " + l)
				} else {
					w.WriteByte(' ')
				}
				if k+1 < len(lines) {
					spaces(w, dw-displayWidth(l))
					w.WriteByte('+')
				}
				w.WriteByte('\n')
			}
		}
	}
	w.WriteByte('\n')
}

// recordLine writes "-[ RECORD 1 ]---+----".
func (t *table) recordLine(w *bufio.Writer, n, hw, dw int) {
	w.WriteByte('-')
	s := fmt.Sprintf("[ RECORD %d ]", n)
	w.WriteString(s)
	used := utf8.RuneCountInString(s) + 1
	repeat(w, '-', hw-used)
	used -= hw
	for _, c := range []byte("-+-") {
		if used <= 0 {
			w.WriteByte(c)
		}
		used--
	}
	repeat(w, '-', dw-max(used, 0))
	w.WriteByte('\n')
}
