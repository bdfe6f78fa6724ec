// Package agentlink is the conversation between an agent and the control plane:
// the messages, and the agent's client.
//
// The agent always connects out, over mutual TLS, to the control plane's own
// listener for agents; it opens no port towards it. It learns what its host
// shall run (Desired), tells what it does run (Status), escrows the wraps of
// its keys, and has its certificates signed. A host joins with a token that
// works once (Enroll). Secrets in messages (database users' passwords) exist
// only inside TLS and in memory.
//
// Every message carries a version; a peer refuses a newer one than it knows.
package agentlink
