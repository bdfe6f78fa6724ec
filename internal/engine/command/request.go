package command

import (
	"math"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/mongoerr"
	"github.com/keywright/keywright/internal/engine/wire"
)

// request is a command after its shape was checked: every field is one of the
// command's own or of the common ones, and occurs once.
type request struct {
	cmd  *command
	conn *conn
	db   string
	name string // as the client spelled it
	body bson.Raw
	args []argument

	session    sessionID
	hasSession bool
	txnNumber  int64
	hasTxn     bool
	stmtIDs    []int32
	maxTime    time.Duration
	concern    writeConcern

	// needs is what the user was found to be allowed; cursors go on by it.
	needs []need

	// optime is set by commands that wrote.
	wrote  bool
	optime bson.Timestamp
}

// sessionID is the id of a logical session.
type sessionID [16]byte

type argument struct {
	name  string
	value bson.RawValue
	docs  []bson.Raw // a document sequence, if isSeq
	isSeq bool
}

// writeConcern is what a client asks of a write; all writes are synced anyway.
type writeConcern struct {
	w   int32
	tag string
}

// errors gives the writeConcernError that one member answers with.
func (c writeConcern) failure() *mongoerr.Error {
	if c.tag != "" {
		return mongoerr.Of(mongoerr.UnknownReplWriteConcern, "No write concern mode named '%s' found in replica set configuration", c.tag)
	}
	if c.w > 1 {
		return mongoerr.Of(mongoerr.UnsatisfiableWriteConcern, "Not enough data-bearing nodes")
	}
	return nil
}

const (
	// maxCommandSize bounds a command's body: a document of full size, and what
	// stands around it.
	maxCommandSize = maxDocumentSize + 16<<10
	// maxCommandFields bounds the fields of a command: names that begin with $ may
	// be anything, and all are compared with each other.
	maxCommandFields = 500
)

// parseRequest finds the command and checks the shape of its body.
func (s *Server) parseRequest(c *conn, wr *wire.Request) (*request, error) {
	req := &request{conn: c, body: wr.Body, db: wr.DB}
	if len(wr.Body) > maxCommandSize {
		return nil, mongoerr.Of(mongoerr.BSONObjectTooLarge, "BSONObj size: %d is invalid. Size must be at most %d", len(wr.Body), maxCommandSize)
	}
	elements, err := wr.Body.Elements()
	if err != nil || len(elements) == 0 {
		return nil, mongoerr.Of(mongoerr.CommandNotFound, "no such command: ''")
	}
	if len(elements) > maxCommandFields {
		return nil, mongoerr.Of(mongoerr.BadValue, "a command has at most %d fields; this one has %d", maxCommandFields, len(elements))
	}
	req.name = elements[0].Key()
	cmd, ok := s.commands[req.name]
	if !ok {
		return nil, unknownCommand(req.name)
	}
	req.cmd = cmd
	req.args = make([]argument, 0, len(elements)+len(wr.Sequences))
	for i, e := range elements {
		key := e.Key()
		for j := range req.args {
			if req.args[j].name == key {
				return nil, mongoerr.Of(40413, "BSON field '%s.%s' is a duplicate field", cmd.name, key)
			}
		}
		if i > 0 {
			common, err := req.common(key, e.Value(), wr.Legacy)
			if err != nil {
				return nil, err
			}
			if !common && !cmd.knows(key) {
				return nil, unknownField(cmd.name, key)
			}
		}
		req.args = append(req.args, argument{name: key, value: e.Value()})
	}
	for _, seq := range wr.Sequences {
		if _, ok := req.arg(seq.Name); ok {
			return nil, mongoerr.Of(40413, "BSON field '%s.%s' is a duplicate field", cmd.name, seq.Name)
		}
		if !cmd.knows(seq.Name) {
			return nil, unknownField(cmd.name, seq.Name)
		}
		req.args = append(req.args, argument{name: seq.Name, docs: seq.Documents, isSeq: true})
	}
	return req, req.checkCommon()
}

func unknownField(command, field string) error {
	return mongoerr.Of(mongoerr.UnknownField, "BSON field '%s.%s' is an unknown field.", command, field)
}

func unknownCommand(name string) error {
	if name == "" || len(name) > 64 {
		return mongoerr.Of(mongoerr.CommandNotFound, "no such command: '%.64s'", name)
	}
	if code, ok := absentCommands()[name]; ok {
		return mongoerr.Of(code, "command '%s' exists in MongoDB but not in this engine", name)
	}
	return mongoerr.Of(mongoerr.CommandNotFound, "no such command: '%s'", name)
}

// common takes the fields that any command may have.
func (r *request) common(key string, v bson.RawValue, legacy bool) (known bool, err error) {
	switch key {
	case "$db":
		if legacy {
			return true, nil
		}
		return true, r.setString(key, v, &r.db)
	case "lsid":
		return true, r.setSession(v)
	case "txnNumber":
		n, ok := v.Int64OK()
		if !ok || n < 0 {
			return true, mongoerr.Of(mongoerr.TypeMismatch, "txnNumber must be a long that is not negative")
		}
		r.txnNumber, r.hasTxn = n, true
	case "stmtId":
		n, ok := wholeNumber(v)
		if !ok || n < 0 || n > math.MaxInt32 {
			return true, mongoerr.Of(mongoerr.TypeMismatch, "stmtId must be an int that is not negative")
		}
		r.stmtIDs = []int32{int32(n)}
	case "stmtIds":
		return true, r.setStatements(v)
	case "startTransaction", "autocommit":
		return true, mongoerr.Of(mongoerr.IllegalOperation, "Multi-document transactions are not supported by this engine yet; "+
			"single writes are atomic and retryable without them")
	case "maxTimeMS":
		n, ok := wholeNumber(v)
		if !ok || n < 0 || n > math.MaxInt32 {
			return true, mongoerr.Of(mongoerr.BadValue, "maxTimeMS must be a number of milliseconds between 0 and %d", math.MaxInt32)
		}
		r.maxTime = time.Duration(n) * time.Millisecond
	case "writeConcern":
		return true, r.setWriteConcern(v)
	case "readConcern":
		return true, checkReadConcern(v)
	case "apiVersion":
		if s, ok := v.StringValueOK(); !ok || s != "1" {
			return true, mongoerr.Of(mongoerr.APIVersionError, "API version must be \"1\"")
		}
	case "apiStrict":
		if b, ok := v.BooleanOK(); ok && b && !r.cmd.stable {
			return true, mongoerr.Of(mongoerr.APIStrictError, "Provided apiStrict:true, but the command %s is not in API Version 1", r.cmd.name)
		}
	case "comment", "apiDeprecationErrors", "maxTimeMSOpOnly":
	default:
		return strings.HasPrefix(key, "$"), nil
	}
	return true, nil
}

func (r *request) checkCommon() error {
	if r.db == "" {
		return mongoerr.Of(40571, "OP_MSG requests require a $db argument")
	}
	if err := checkDatabaseName(r.db); err != nil {
		return err
	}
	if r.hasTxn {
		switch {
		case !r.hasSession:
			return mongoerr.Of(mongoerr.InvalidOptions, "Transaction number requires a session ID to also be specified")
		case !r.cmd.retryable:
			return mongoerr.Of(mongoerr.OperationNotSupportedInTransaction, "txnNumber may not be provided for the %s command: it is not retryable", r.cmd.name)
		}
	}
	if r.cmd.adminOnly && r.db != "admin" {
		return mongoerr.Of(mongoerr.Unauthorized, "%s may only be run against the admin database.", r.cmd.name)
	}
	return nil
}

func (r *request) setString(key string, v bson.RawValue, to *string) error {
	s, ok := v.StringValueOK()
	if !ok {
		return wrongType(r.cmd.name, key, v, "string")
	}
	*to = s
	return nil
}

func (r *request) setSession(v bson.RawValue) error {
	doc, ok := v.DocumentOK()
	if !ok {
		return wrongType(r.cmd.name, "lsid", v, "object")
	}
	id, ok := parseSessionID(doc)
	if !ok {
		return mongoerr.Of(mongoerr.TypeMismatch, "lsid must be {id: UUID}")
	}
	r.session, r.hasSession = id, true
	return nil
}

func parseSessionID(doc bson.Raw) (id sessionID, ok bool) {
	v, err := doc.LookupErr("id")
	if err != nil {
		return id, false
	}
	subtype, data, ok := v.BinaryOK()
	if !ok || subtype != bson.TypeBinaryUUID || len(data) != len(id) {
		return id, false
	}
	copy(id[:], data)
	return id, true
}

func (r *request) setStatements(v bson.RawValue) error {
	list, ok := v.ArrayOK()
	if !ok {
		return wrongType(r.cmd.name, "stmtIds", v, "array")
	}
	values, err := list.Values()
	if err != nil || len(values) > maxWriteBatch {
		return mongoerr.Of(mongoerr.BadValue, "stmtIds is malformed")
	}
	for _, e := range values {
		n, ok := wholeNumber(e)
		if !ok || n < 0 || n > math.MaxInt32 {
			return mongoerr.Of(mongoerr.TypeMismatch, "stmtIds must be ints that are not negative")
		}
		r.stmtIDs = append(r.stmtIDs, int32(n))
	}
	return nil
}

// statement gives the statement id of the i-th write of the command.
func (r *request) statement(i int) int32 {
	if i < len(r.stmtIDs) {
		if len(r.stmtIDs) > 1 {
			return r.stmtIDs[i]
		}
	}
	first := 0
	if len(r.stmtIDs) == 1 {
		first = int(r.stmtIDs[0])
	}
	return int32(first + i) //nolint:gosec // at most 100,000 statements, and first is checked below
}

func (r *request) setWriteConcern(v bson.RawValue) error {
	doc, ok := v.DocumentOK()
	if !ok {
		return wrongType(r.cmd.name, "writeConcern", v, "object")
	}
	elements, err := doc.Elements()
	if err != nil {
		return mongoerr.Of(mongoerr.FailedToParse, "writeConcern is malformed")
	}
	for _, e := range elements {
		switch e.Key() {
		case "w":
			if s, ok := e.Value().StringValueOK(); ok {
				if s != "majority" {
					r.concern.tag = s
				}
				continue
			}
			n, ok := wholeNumber(e.Value())
			if !ok || n < 0 || n > 50 {
				return mongoerr.Of(mongoerr.FailedToParse, "w has to be a number between 0 and 50 or a string")
			}
			r.concern.w = int32(n)
		case "j", "wtimeout", "fsync", "provenance", "wtimeoutMS":
		default:
			return unknownField("writeConcern", e.Key())
		}
	}
	return nil
}

// checkReadConcern accepts the levels that one node serves alike: what it reads
// is committed.
func checkReadConcern(v bson.RawValue) error {
	doc, ok := v.DocumentOK()
	if !ok {
		return mongoerr.Of(mongoerr.TypeMismatch, "readConcern must be an object")
	}
	elements, err := doc.Elements()
	if err != nil {
		return mongoerr.Of(mongoerr.FailedToParse, "readConcern is malformed")
	}
	for _, e := range elements {
		switch e.Key() {
		case "level":
			level, ok := e.Value().StringValueOK()
			switch {
			case ok && (level == "local" || level == "available" || level == "majority" || level == "linearizable"):
			case ok && level == "snapshot":
				return mongoerr.Of(mongoerr.CommandNotSupported, "Read concern level snapshot is not supported by this engine yet")
			default:
				return mongoerr.Of(mongoerr.FailedToParse, "readConcern.level must be 'local', 'available', 'majority' or 'linearizable'")
			}
		case "afterClusterTime", "provenance":
		case "atClusterTime":
			return mongoerr.Of(mongoerr.SnapshotTooOld, "Reading at a past cluster time is not supported by this engine yet")
		default:
			return unknownField("readConcern", e.Key())
		}
	}
	return nil
}

func (r *request) arg(name string) (*argument, bool) {
	for i := range r.args {
		if r.args[i].name == name {
			return &r.args[i], true
		}
	}
	return nil, false
}

// wholeNumber reads a number of any type that has no fraction.
func wholeNumber(v bson.RawValue) (int64, bool) {
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64:
		return v.AsInt64OK()
	case bson.TypeDouble:
		f := v.Double()
		if f != math.Trunc(f) || math.Abs(f) >= 1<<62 {
			return 0, false
		}
		return int64(f), true
	case bson.TypeDecimal128:
		d := v.Decimal128()
		big, exp, err := d.BigInt()
		if err != nil || exp < 0 || exp > 18 || !big.IsInt64() {
			return 0, false
		}
		n := big.Int64()
		for range exp {
			if n > math.MaxInt64/10 || n < math.MinInt64/10 {
				return 0, false
			}
			n *= 10
		}
		return n, true
	}
	return 0, false
}

func checkDatabaseName(name string) error {
	if name == "" || len(name) > 63 || strings.ContainsAny(name, "/\\. \"$*<>:|?\x00") {
		if name == "$external" {
			return nil
		}
		return mongoerr.Of(mongoerr.InvalidNamespace, "Invalid database name: '%.64s'", name)
	}
	return nil
}

func checkCollectionName(db, coll string) error {
	switch {
	case coll == "" || coll[0] == '.' || strings.ContainsAny(coll, "$\x00"):
		return mongoerr.Of(mongoerr.InvalidNamespace, "Invalid collection name: '%.120s'", coll)
	case len(db)+1+len(coll) > 255:
		return mongoerr.Of(mongoerr.InvalidNamespace, "Fully qualified namespace is too long; at most 255 bytes are allowed")
	}
	return nil
}

func wrongType(command, field string, v bson.RawValue, want string) error {
	return mongoerr.Of(mongoerr.TypeMismatch, "BSON field '%s.%s' is the wrong type '%s', expected type '%s'", command, field, typeName(v.Type), want)
}

func typeName(t bson.Type) string {
	switch t {
	case bson.TypeEmbeddedDocument:
		return "object"
	case bson.TypeBoolean:
		return "bool"
	case bson.TypeInt32:
		return "int"
	case bson.TypeInt64:
		return "long"
	case bson.TypeObjectID:
		return "objectId"
	case bson.TypeDateTime:
		return "date"
	case bson.TypeDecimal128:
		return "decimal"
	case bson.TypeBinary:
		return "binData"
	}
	return t.String()
}
