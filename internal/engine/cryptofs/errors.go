package cryptofs

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Reasons that a FileError or a keyring error may wrap.
var (
	// ErrNewerFormat: the file was written by a later version of the program.
	ErrNewerFormat = errors.New("format is newer than this program knows")
	// ErrUnknownKey: the file names a key that the keyset does not hold.
	ErrUnknownKey = errors.New("key is not in the keyset")
	// ErrOtherDatabase: the file belongs to another database.
	ErrOtherDatabase = errors.New("file belongs to another database")
	// ErrNameBound: a link or rename would give a file another base name, to which
	// its content is bound. vfs.LinkOrCopy then copies.
	ErrNameBound = errors.New("content is bound to the file's base name")
	// ErrFinished: a write to a file that its first sync had completed.
	ErrFinished = errors.New("file was completed by its sync")
	// ErrPoisoned: a write or sync of this file failed before; nothing more is
	// written, since what reached the disk is unknown.
	ErrPoisoned = errors.New("an earlier write of this file failed")
)

// FileError refuses a file: it is damaged, exchanged, foreign or too new.
// errors.Is(err, pebble.ErrCorruption) holds for every FileError.
type FileError struct {
	// Path is the file as it was opened.
	Path string
	// Offset is where in the stored file the expectation failed, in bytes.
	Offset int64
	// Expected says what should have been there.
	Expected string
	// Reason is one of this package's errors, or nil.
	Reason error
}

// Error implements error.
func (e *FileError) Error() string {
	s := fmt.Sprintf("cryptofs: %s refused at offset %d: expected %s", e.Path, e.Offset, e.Expected)
	if e.Reason != nil {
		s += ": " + e.Reason.Error()
	}
	return s
}

// Unwrap gives the reason.
func (e *FileError) Unwrap() error { return e.Reason }

// Is makes the error one of Pebble's corruption errors.
func (e *FileError) Is(target error) bool { return target == pebble.ErrCorruption }

func refuse(path string, off int64, reason error, format string, args ...any) error {
	return &FileError{Path: path, Offset: off, Expected: fmt.Sprintf(format, args...), Reason: reason}
}
