package mongoerr

import (
	"errors"
	"fmt"
	"testing"
)

func TestNames(t *testing.T) {
	for code, want := range map[int32]string{BadValue: "BadValue", DuplicateKey: "DuplicateKey", UnrecognizedStage: "Location40324", 7: "Location7"} {
		if got := NameOf(code); got != want {
			t.Errorf("%d is called %s, want %s", code, got, want)
		}
	}
}

func TestFrom(t *testing.T) {
	e := Of(WriteConflict, "lost %d", 1).WithLabels("TransientTransactionError")
	wrapped := fmt.Errorf("write: %w", e)
	if got := From(wrapped); got != e || !HasCode(wrapped, WriteConflict) || len(got.Labels) != 1 || got.Message != "lost 1" {
		t.Errorf("got %v", got)
	}
	if got := From(errors.New("/secret/path: broken")); got.Code != InternalError || got.Message != "internal error; see the node's log" {
		t.Errorf("an inner error is told: %v", got)
	}
	if From(nil) != nil {
		t.Error("no error became one")
	}
}
