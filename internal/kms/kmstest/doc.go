// Package kmstest tests providers of package kms and what is built on them.
//
// Provider is the contract that every implementation keeps. Cloud is an
// implementation in memory, with keys and roles that a test changes at will, for tests
// of what uses a Provider; it keeps the same contract. Only tests import this package.
package kmstest
