// Package auth answers two questions: who is it, and may they do it?
//
// Who: SCRAM-SHA-256 and SCRAM-SHA-1 conversations (Authenticator,
// Conversation) over users as MongoDB keeps them in admin.system.users (User,
// Credentials). An unknown user, a user without the mechanism and a wrong
// password are answered alike, and take the same time.
//
// May they: roles (Role) are names for sets of actions on sets of collections;
// Allowed decides for one action on one Resource. The roles are MongoDB's
// built-in ones and nothing else.
//
// Users is the cache between the two: every command asks it anew for its user,
// so that a change of a user reaches connections that are open.
package auth
