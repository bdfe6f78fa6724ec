// Package alert tells people what needs them: a customer's key that cannot be used, a
// key that is too old, a host that is silent, a chain of events that was rewritten.
//
// A Condition is a pure function from the Facts of one project, a limit and the time to
// findings. A configuration (Atlas's alertConfigs) says which condition a project wants
// to be told of, from which limit on, and how. The reconciler holds both against each
// other and keeps one alert for each configuration and target: TRACKING while the
// condition has not lasted as long as the configuration demands, OPEN, then CLOSED;
// CANCELLED if the condition ends while it is tracked, or the configuration goes.
// Each step is an event and messages in a queue in the store, from which Deliverer sends
// them to the log, by mail and to webhooks: a crash loses no message, it may repeat one
// under the same id.
//
// # How another room adds a condition
//
// If the store's records show it: write a Find function in a file conditions_ROOM.go of
// this package and a line in Conditions. If only the moment of happening shows it (an
// address has changed): add a line in Conditions without Find, and call, in the
// transaction that notices,
//
//	tx.Raise(store.Finding{Project: p, Kind: "KIND", Target: "what it is about",
//		Summary: "What happened.", Remedy: "What to do.", Until: optional})
//	tx.Clear(p, "KIND", "what it is about") // when it is over
//
// which needs no import of this package. Raising again is harmless; Since is kept.
package alert
