package query

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
)

// maxRegex is MongoDB's longest pattern, in bytes.
const maxRegex = 32764

// Codes without a name that only regular expressions give.
const (
	codeOptionsTwice  = 51074
	codeOptionsBefore = 51075
	codeBadFlag       = 51108
)

// parseRegex reads $regex with its $options.
func parseRegex(v, options bson.RawValue) (regexPred, error) {
	opts := ""
	if options.Type != 0 {
		var ok bool
		if opts, ok = options.StringValueOK(); !ok {
			return regexPred{}, badValue("$options has to be a string")
		}
	}
	if pattern, inner, ok := v.RegexOK(); ok {
		if inner != "" && options.Type != 0 {
			return regexPred{}, mongoerr.Of(codeOptionsTwice, "options set in both $regex and $options")
		}
		return newRegex(pattern, inner+opts)
	}
	pattern, ok := v.StringValueOK()
	if !ok {
		return regexPred{}, badValue("$regex has to be a string")
	}
	if strings.ContainsRune(pattern, 0) {
		return regexPred{}, mongoerr.Of(codeOptionsBefore, "Regular expression cannot contain an embedded null byte")
	}
	return newRegex(pattern, opts)
}

// newRegex compiles a pattern. The language is RE2's: it runs in linear time,
// and has neither look-around nor back-references.
func newRegex(pattern, options string) (regexPred, error) {
	flags := ""
	for _, c := range options {
		switch c {
		case 'i', 'm', 's':
			flags += string(c)
		case 'u':
		case 'x':
			return regexPred{}, notHere("the regular expression option 'x'")
		default:
			return regexPred{}, mongoerr.Of(codeBadFlag, "invalid flag in regex options: %c", c)
		}
	}
	if len(pattern) > maxRegex {
		return regexPred{}, mongoerr.Of(mongoerr.InvalidRegex, "Regular expression is invalid: longer than %d bytes", maxRegex)
	}
	source := pattern
	if flags != "" {
		source = "(?" + flags + ")" + pattern
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return regexPred{}, regexError(pattern, err)
	}
	return regexPred{re: re, value: regexValue(pattern, options), prefix: literalPrefix(source)}, nil
}

func regexError(pattern string, err error) error {
	var se *syntax.Error
	if errors.As(err, &se) {
		switch se.Code {
		case syntax.ErrInvalidPerlOp, syntax.ErrInvalidEscape, syntax.ErrInvalidRepeatOp, syntax.ErrInvalidRepeatSize, syntax.ErrLarge:
			return mongoerr.Of(mongoerr.NotImplemented, "The regular expression '%s' uses '%s', which this engine does not have "+
				"(no look-around, back-references, possessive or atomic groups; repeats up to 1000)", pattern, se.Expr)
		}
	}
	return mongoerr.Of(mongoerr.InvalidRegex, "Regular expression is invalid: %s", err.Error())
}

func regexValue(pattern, options string) bson.RawValue {
	b := append(append([]byte(pattern), 0), options...)
	return bson.RawValue{Type: bson.TypeRegex, Value: append(b, 0)}
}

// literalPrefix gives the text with which every matching string begins, as far
// as it is plain: a pattern that starts with ^ and case-sensitive letters.
func literalPrefix(source string) string {
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return ""
	}
	re = re.Simplify()
	if re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if lit := re.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
		// U+FFFD in a pattern also matches bytes that are not UTF-8.
		prefix, _, _ := strings.Cut(string(lit.Rune), "\uFFFD")
		return prefix
	}
	return ""
}
