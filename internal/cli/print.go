package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keywright/keywright/internal/client"
)

// show prints an answer to standard output: indented JSON of v with -o json (a
// json.RawMessage stays what the API said), otherwise what text writes.
func (f *apiFlags) show(c *cobra.Command, v any, text func(*table)) error {
	if f.output == "json" {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("print answer: %w", err)
		}
		_, err = c.OutOrStdout().Write(append(b, '\n'))
		return err
	}
	t := &table{w: tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 2, ' ', 0)}
	text(t)
	return errors.Join(t.err, t.w.Flush())
}

// table writes text in columns. The first error is kept.
type table struct {
	w   *tabwriter.Writer
	err error
}

// row writes one line of cells under those of the lines before it.
func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = printable(fmt.Sprint(c)); texts[i] == "" {
			texts[i] = "-"
		}
	}
	t.write(strings.Join(texts, "\t"))
}

// line writes a line that has no columns.
func (t *table) line(format string, args ...any) { t.write(printable(fmt.Sprintf(format, args...))) }

func (t *table) write(line string) {
	if _, err := io.WriteString(t.w, line+"\n"); err != nil && t.err == nil {
		t.err = err
	}
}

// printable keeps control characters of names and messages away from a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// explain makes of an error what a person reads after "error: ": what was refused, by
// which code, and what to do.
func explain(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return explainRefusal(err, e)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return err.Error() + "\nhint: nothing listens there: start `keywright up` or `keywright server`, or name another address with --base-url or --bootstrap"
	}
	return err.Error()
}

func explainRefusal(err error, e *client.Error) string {
	var b strings.Builder
	// What was tried stands before the refusal's own text in the chain.
	b.WriteString(strings.TrimSuffix(err.Error(), e.Error()) + printable(e.Detail))
	fmt.Fprintf(&b, "\n  code: %s (%d)", printable(e.Code), e.Status)
	for _, f := range e.Bad.Fields {
		fmt.Fprintf(&b, "\n  %s: %s", printable(f.Field), printable(f.Description))
	}
	switch e.Status {
	case 401:
		b.WriteString("\nhint: the API key is not known there: check the key files, or --bootstrap")
	case 403:
		b.WriteString("\nhint: the API key lacks a role; the command's --help names the one that it needs")
	case 502, 503, 504:
		b.WriteString("\nhint: the server is starting, stopping or overloaded: try again")
	}
	return b.String()
}
