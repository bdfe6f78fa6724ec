package awslocal

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keywright/keywright/internal/durable"
)

const (
	// ControlPath is where the control calls are, outside the AWS protocol. They
	// exist only if Config.Control is set.
	ControlPath = "/_awslocal/control/v1/"
	// ControlTokenFile is the name of the file in the data directory that holds
	// the token for the control calls, mode 0600.
	ControlTokenFile = "control.token"

	controlVersion = 1
	controlPrefix  = "kwac1."
	maxControlBody = 64 << 10

	maxDelay       = 10 * time.Minute
	maxClockOffset = 10 * 365 * 24 * time.Hour
)

// Delay is how long changes take until calls that read see them, as AWS's
// eventual consistency does. Authentication and authorisation are by what is
// seen.
type Delay struct {
	// Millis is at most ten minutes; 0 makes everything seen at once.
	Millis int `json:"millis"`
	// Alternate lets every other call see the newest state, as AWS's answers may
	// flip back and forth while a change spreads.
	Alternate bool `json:"alternate,omitempty"`
}

// ControlState is what the control calls have set.
type ControlState struct {
	Version int `json:"version"`
	// Now is the time in the local AWS, ClockOffsetSeconds how far that is from
	// the real time.
	Now                time.Time `json:"now"`
	ClockOffsetSeconds int64     `json:"clockOffsetSeconds"`
	Delay              Delay     `json:"delay"`
	Faults             []Fault   `json:"faults"`
}

// control is the control path of one server.
type control struct {
	token  [sha256.Size]byte // the hash, for a comparison in constant time
	faults faults
}

// openControl reads the token of the data directory, making it if it is
// missing.
func openControl(dir string) (*control, error) {
	path := filepath.Join(dir, ControlTokenFile)
	token, err := readControlToken(dir)
	if errors.Is(err, fs.ErrNotExist) {
		token = controlPrefix + base64.RawURLEncoding.EncodeToString(randomBytes(32))
		err = durable.WriteFile(path, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	return &control{token: sha256.Sum256([]byte(token))}, nil
}

func readControlToken(dir string) (string, error) {
	path := filepath.Join(dir, ControlTokenFile)
	raw, err := os.ReadFile(path) //nolint:gosec // the operator's own data directory
	if err != nil {
		return "", err
	}
	token := strings.TrimSuffix(string(raw), "\n")
	text, ok := strings.CutPrefix(token, controlPrefix)
	if secret, err := base64.RawURLEncoding.Strict().DecodeString(text); !ok || err != nil || len(secret) != 32 {
		return "", fmt.Errorf("%s holds no control token of version 1: remove it to have one made", path)
	}
	return token, nil
}

func (c *control) admits(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	hash := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(hash[:], c.token[:]) == 1 && ok
}

// controlRequest is the body of every control call: each takes its own fields.
type controlRequest struct {
	Version     int    `json:"version"`
	Delay       *Delay `json:"delay,omitempty"`
	MoveSeconds *int64 `json:"moveSeconds,omitempty"`
	Fault       *Fault `json:"fault,omitempty"`
}

// parseControl reads a control call's body strictly.
func parseControl(raw []byte) (controlRequest, error) {
	var in controlRequest
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return in, fmt.Errorf("the body cannot be read: %w", err)
	}
	if dec.More() {
		return in, errors.New("something follows the body")
	}
	if in.Version != controlVersion {
		return in, fmt.Errorf("version is %d, this program knows %d", in.Version, controlVersion)
	}
	return in, nil
}

// serveControl answers one control call and notes it in the call log.
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) {
	c := newCall(r, s.now(), s.store.offset())
	c.entry.Service, c.entry.Operation, c.entry.Outcome = "control", r.Method+" "+strings.TrimPrefix(r.URL.Path, ControlPath), "ok"
	status, answer := http.StatusOK, any(nil)
	if s.control.admits(r) {
		var err error
		if answer, err = s.controlCall(w, r); err != nil {
			status, answer = http.StatusBadRequest, map[string]any{"version": controlVersion, "error": err.Error()}
		}
	} else {
		status, answer = http.StatusUnauthorized, map[string]any{"version": controlVersion, "error": "the header Authorization must be: Bearer and the token in " + ControlTokenFile}
	}
	if status != http.StatusOK {
		c.entry.Outcome = http.StatusText(status)
		c.entry.Operation = r.Method
	}
	s.note(c)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) controlCall(w http.ResponseWriter, r *http.Request) (any, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBody))
	if err != nil {
		return nil, fmt.Errorf("the body cannot be read, or has more than %d bytes", maxControlBody)
	}
	in := controlRequest{}
	if r.Method == http.MethodPost {
		if in, err = parseControl(raw); err != nil {
			return nil, err
		}
	}
	what := r.Method + " " + strings.TrimPrefix(r.URL.Path, ControlPath)
	switch {
	case what == "GET state":
		return s.controlState(), nil
	case what == "POST delay" && in.Delay != nil:
		return s.done(s.setDelay(*in.Delay))
	case what == "POST time" && in.MoveSeconds != nil:
		return s.done(s.moveTime(*in.MoveSeconds))
	case what == "POST faults" && in.Fault != nil:
		if err := in.Fault.check(); err != nil {
			return nil, err
		}
		id, err := s.control.faults.add(*in.Fault)
		return map[string]any{"version": controlVersion, "id": id}, err
	case what == "DELETE faults":
		s.control.faults.remove("")
		return s.controlState(), nil
	case strings.HasPrefix(what, "DELETE faults/"):
		if !s.control.faults.remove(strings.TrimPrefix(what, "DELETE faults/")) {
			return nil, errors.New("there is no such fault")
		}
		return s.controlState(), nil
	}
	return nil, errors.New("there are GET state, POST delay {delay}, POST time {moveSeconds}, POST faults {fault}, DELETE faults and DELETE faults/ID")
}

// done answers a control call that sets something.
func (s *Server) done(err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return s.controlState(), nil
}

func (s *Server) controlState() ControlState {
	offset := s.store.offset()
	return ControlState{
		Version: controlVersion, Now: s.now().Add(offset).UTC(), ClockOffsetSeconds: int64(offset / time.Second),
		Delay: s.store.delay(), Faults: s.control.faults.all(),
	}
}

func (s *Server) setDelay(d Delay) error {
	if d.Millis < 0 || int64(d.Millis) > maxDelay.Milliseconds() {
		return fmt.Errorf("millis must be between 0 and %d", maxDelay.Milliseconds())
	}
	s.store.setDelay(d)
	return nil
}

// moveTime moves the time in the local AWS, for good: waiting periods, rotation
// and sessions go by it, signatures by the real time.
func (s *Server) moveTime(seconds int64) error {
	limit := int64(maxClockOffset / time.Second)
	if seconds < -2*limit || seconds > 2*limit {
		return errors.New("moveSeconds is beyond ten years")
	}
	if seconds < 0 { // a change must not become unseen again
		defer s.store.setDelay(s.store.delay())
		s.store.setDelay(Delay{})
	}
	return s.store.changeAtOnce(func(st *state) error {
		if next := st.ClockOffset + seconds; next < -limit || next > limit {
			return errors.New("the time may be off by ten years at most")
		}
		st.ClockOffset += seconds
		return nil
	})
}
