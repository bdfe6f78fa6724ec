// Package cryptofs encrypts the files of a database below its storage engine.
//
// The noun is FS: a vfs.FS that Pebble is opened on. Everything that Pebble
// writes (logs, manifest, tables, blobs, options, markers) and every other file
// of the database goes through it and reaches the disk encrypted and
// authenticated; only the names, sizes and times of files, and the 64-byte header
// of each, stay readable. One FS serves one database with that database's Keyset.
//
// Two layouts exist. Files that are written once and read at random (tables,
// blobs, options, markers, anything else) are "segments": exactly Tink's
// AES256-GCM-HKDF streaming format with 4-KiB segments behind the header. Files
// that grow record by record and must survive a torn tail (logs, manifests) are
// "frames": one AEAD message for each write. The key of a file is derived from a
// data key, a random salt, the header and the file's name, so a file cannot be
// renamed, exchanged or moved to another database without being refused.
//
// The Keysets of a node stand in its Keyring, one file sealed under the node's
// master key and replaced as a whole.
//
// What a user of an FS has to know besides vfs.FS:
//
//   - A file is bound to its base name. Rename and Link work between directories
//     and for Pebble's own temporaries, and fail otherwise; write a file under
//     its final name, in another directory if it must appear at once.
//   - On a file of segments the first Sync or SyncData is the last: it completes
//     the file, and a Write after it fails. A file that grows and is synced again
//     and again has to be a log.
//   - OpenReadWrite and WriteAt are refused.
//   - A file that does not authenticate is refused with a FileError that says
//     which file, where, and what was expected; errors.Is(err,
//     pebble.ErrCorruption) holds. Shortened data is returned only for the torn
//     tail that a power loss leaves.
//
// A whole directory that was replaced by an older state of itself is not noticed
// here: the replicated log's term and index, which are known elsewhere, are the
// defence. Neither are, for now, a log or a manifest that was cut at a border of
// its frames: the counts in them that would tell are 0, which claims nothing.
package cryptofs
