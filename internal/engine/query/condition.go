package query

import "go.mongodb.org/mongo-driver/v2/bson"

// Condition is what may stand beside a field name in a filter: operators, a
// regular expression, or a value to equal. $pull takes one.
type Condition struct{ preds allPred }

// ParseCondition reads a condition; v must come from a validated document.
func ParseCondition(v bson.RawValue) (*Condition, error) {
	preds, err := parseCondition(v)
	if err != nil {
		return nil, err
	}
	return &Condition{preds: preds}, nil
}

// Matches tells whether v itself meets the condition; an array is not entered.
func (c *Condition) Matches(v bson.RawValue) bool { return c.preds.single(v) }

// IsOperators tells whether v is a document of operators ({$gt: 5}) rather
// than a document to equal.
func IsOperators(v bson.RawValue) bool { return isOperators(v) }
