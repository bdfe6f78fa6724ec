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
	c := newCall(r, s.now())
	content, answer, err := s.answer(w, r, c)
	status := http.StatusOK
	c.entry.Outcome = "ok"
	if err != nil {
		api := asAPIError(err, c.json)
		if api.status >= http.StatusInternalServerError {
			s.log.Error("call failed", "operation", c.entry.Operation, "request_id", c.entry.RequestID, "error", err)
		}
		status, c.entry.Outcome = api.status, api.code
		content, answer = c.errorAnswer(w, api)
	}
	if err := s.calls.write(c.entry); err != nil {
		s.log.Error("call log", "request_id", c.entry.RequestID, "error", err)
	}
	w.Header().Set("Content-Type", content)
	w.Header().Set("X-Amzn-Requestid", c.entry.RequestID)
	// Clients correct their clocks by this header, so it tells the clock that
	// signatures are checked by.
	w.Header().Set("Date", c.now.UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
	_, _ = w.Write(answer) //nolint:gosec // JSON or XML from an encoder, never HTML
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
	if err := s.store.view(func(st *state) error { return c.authenticate(st, r, body) }); err != nil {
		return "", nil, err
	}
	if c.json {
		answer, err = s.answerKMS(r, c, body)
		return "application/x-amz-json-1.1", answer, err
	}
	answer, err = s.answerQuery(r, c, body)
	return "text/xml", answer, err
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
