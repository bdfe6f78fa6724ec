package custody

// Step is the rule book.
func Step(s State, e Event, now Instant) (State, []Effect) { return s, nil }
