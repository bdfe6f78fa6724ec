// Package update applies MongoDB's update language to raw documents:
// replacements, and the operators that change single fields.
//
// It is pure: a document goes in, a document comes out, and whoever calls it
// makes that atomic. Only what an operator touches is taken apart; the rest of
// a document is copied as bytes, so that its types and order stay.
package update
