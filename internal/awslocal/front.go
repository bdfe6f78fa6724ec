package awslocal

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// ServeHTTP answers one call of an AWS client, or the health check.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == HealthPath && r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"status":"ok"}`)
		return
	}
	if s.control != nil && strings.HasPrefix(r.URL.Path, ControlPath) {
		s.serveControl(w, r)
		return
	}
	c := newCall(r, s.now(), s.store.offset())
	c.sees = s.store.sees(c.now)
	c.entry.Outcome = "ok"
	content, answer, err := s.answer(w, r, c)
	if c.fault != nil {
		c.entry.Reason = strings.TrimSpace("injected fault " + c.fault.ID + " (" + string(c.fault.Kind) + ") " + c.entry.Reason)
	}
	if errors.Is(err, errDropped) {
		c.entry.Outcome = string(FaultReset)
		s.note(c)
		drop(w)
		return
	}
	status := http.StatusOK
	if err != nil {
		api := asAPIError(err, c.json)
		if api.status >= http.StatusInternalServerError && c.fault == nil {
			s.log.Error("call failed", "operation", c.entry.Operation, "request_id", c.entry.RequestID, "error", err)
		}
		status, c.entry.Outcome = api.status, api.code
		content, answer = c.errorAnswer(w, api)
	}
	s.note(c)
	w.Header().Set("Content-Type", content)
	w.Header().Set("X-Amzn-Requestid", c.entry.RequestID)
	// Clients correct their clocks by this header, so it tells the clock that
	// signatures are checked by.
	w.Header().Set("Date", c.wall.UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_, _ = w.Write(answer) //nolint:gosec // JSON or XML from an encoder, never HTML
}

// note writes a call into the call log.
func (s *Server) note(c *call) {
	if err := s.calls.write(c.entry); err != nil {
		s.log.Error("call log", "request_id", c.entry.RequestID, "error", err)
	}
}

// isJSON tells KMS's protocol from the query protocol, also for a request that
// is not signed.
func isJSON(r *http.Request) bool {
	return r.Header.Get("X-Amz-Target") != "" || strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-amz-json")
}

// answer authenticates and carries out one call.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call) (content string, answer []byte, err error) {
	if r.URL.Path != "/" {
		return "", nil, fail(http.StatusNotFound, "UnknownOperationException", "The local AWS answers on the path /, not on %.100q", r.URL.Path)
	}
	if r.Method != http.MethodPost && (c.json || r.Method != http.MethodGet) {
		return "", nil, fail(http.StatusMethodNotAllowed, "UnknownOperationException", "The method %.20q is not supported", r.Method)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return "", nil, fail(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "The request body is longer than %d bytes", maxBody)
		}
		return "", nil, fail(http.StatusBadRequest, "IncompleteBody", "The request body could not be read")
	}
	if err := s.store.settle(c.now); err != nil {
		return "", nil, err
	}
	meet := func() {
		if s.control == nil {
			return
		}
		operation := operationOf(r, c, body)
		if c.fault = s.control.faults.meet(c.entry.Service, operation, c.caller); c.fault != nil && operationForm.MatchString(operation) {
			c.entry.Operation = operation // also of a call that is not carried out
		}
	}
	if err := s.store.view(c.sees, func(st *state) error { return c.authenticate(st, r, body, meet) }); err != nil {
		return "", nil, err
	}
	content, run := "text/xml", s.answerQuery
	if c.json {
		content, run = "application/x-amz-json-1.1", s.answerKMS
	}
	answer, err = c.carryOut(r.Context(), w, func() ([]byte, error) { return run(r, c, body) })
	return content, answer, err
}

// operationOf reads the name of an operation before the call is looked at.
func operationOf(r *http.Request, c *call, body []byte) string {
	if c.json {
		return strings.TrimPrefix(r.Header.Get("X-Amz-Target"), kmsTarget)
	}
	raw := string(body)
	if r.Method == http.MethodGet {
		raw = r.URL.RawQuery
	}
	p, err := parseParams(raw)
	if err != nil {
		return ""
	}
	return p["Action"]
}

func (c *call) errorAnswer(w http.ResponseWriter, e *apiError) (content string, answer []byte) {
	if !c.json {
		return "text/xml", xmlError(c.entry.Service, c.entry.RequestID, e)
	}
	w.Header().Set("X-Amzn-Errortype", e.code)
	// Two strings always encode.
	answer, _ = json.Marshal(struct {
		Type    string `json:"__type"`
		Message string `json:"message,omitempty"`
	}{e.code, e.text})
	return "application/x-amz-json-1.1", answer
}
