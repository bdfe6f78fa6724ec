package policydoc

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// hclString quotes a string; templates in it are switched off.
func hclString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		case (r == '$' || r == '%') && strings.HasPrefix(s[i+1:], "{"):
			b.WriteRune(r)
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func hclValues(v Values) string {
	out := make([]string, len(v))
	for i, s := range v {
		out[i] = hclString(s)
	}
	if len(out) == 1 {
		return out[0]
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// hclDocument writes the object that jsonencode makes the document of.
func hclDocument(b *strings.Builder, d Document, indent string) {
	in := indent + "  "
	fmt.Fprintf(b, "{\n%sVersion = %s\n%sStatement = [", in, hclString(d.Version), in)
	for i, s := range d.Statement {
		if i > 0 {
			b.WriteString(", ")
		}
		hclStatement(b, s, in)
	}
	b.WriteString("]\n" + indent + "}")
}

func hclStatement(b *strings.Builder, s Statement, indent string) {
	in := indent + "  "
	line := func(name, value string) { fmt.Fprintf(b, "%s%s = %s\n", in, name, value) }
	b.WriteString("{\n")
	if s.Sid != "" {
		line("Sid", hclString(s.Sid))
	}
	line("Effect", hclString(s.Effect))
	if s.Principal != nil {
		line("Principal", "{ AWS = "+hclString(s.Principal.AWS)+" }")
	}
	line("Action", hclValues(s.Action))
	if len(s.Resource) > 0 {
		line("Resource", hclValues(s.Resource))
	}
	if len(s.Condition) > 0 {
		b.WriteString(in + "Condition = {\n")
		for _, op := range slices.Sorted(maps.Keys(s.Condition)) {
			b.WriteString(in + "  " + hclString(op) + " = {\n")
			for _, key := range slices.Sorted(maps.Keys(s.Condition[op])) {
				b.WriteString(in + "    " + hclString(key) + " = " + hclValues(s.Condition[op][key]) + "\n")
			}
			b.WriteString(in + "  }\n")
		}
		b.WriteString(in + "}\n")
	}
	b.WriteString(indent + "}")
}
