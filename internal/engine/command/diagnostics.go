package command

import (
	"context"
	"net"
	"os"
	"runtime"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/keywright/keywright/internal/engine/auth"
	"github.com/keywright/keywright/internal/engine/mongoerr"
)

func diagnosticCommands() []command {
	return []command{
		{name: "ping", run: ping, anonymous: true, always: true, stable: true},
		{name: "buildInfo", aliases: []string{"buildinfo"}, run: buildInfo, anonymous: true, always: true},
		{name: "whatsmyuri", run: whatsMyURI, anonymous: true, always: true},
		{name: "connectionStatus", run: connectionStatus, anonymous: true, always: true, fields: []string{"showPrivileges"}},
		{name: "getParameter", run: getParameter, needs: onCluster(auth.GetParameter), adminOnly: true, always: true, fields: append([]string{"allParameters"}, parameterNames()...), anyField: true},
		{name: "getLog", run: getLog, needs: onCluster(auth.GetLog), adminOnly: true, always: true},
		{name: "getCmdLineOpts", run: getCmdLineOpts, needs: onCluster(auth.GetCmdLineOpts), adminOnly: true, always: true},
		{name: "hostInfo", run: hostInfo, needs: onCluster(auth.HostInfo), adminOnly: true, always: true},
		{name: "serverStatus", run: serverStatus, needs: onCluster(auth.ServerStatus), always: true, anyField: true},
		{name: "listCommands", run: listCommands, always: true},
		{name: "shutdown", run: shutdown, needs: onCluster(auth.Shutdown), adminOnly: true, always: true, fields: []string{"force", "timeoutSecs"}},
	}
}

func ping(context.Context, *Server, *request, *auth.User) (*builder, error) { return nil, nil }

func buildInfo(context.Context, *Server, *request, *auth.User) (*builder, error) {
	version := newArray()
	for _, n := range []byte{7, 0, 0, 0} {
		version.value(bson.RawValue{Type: bson.TypeInt32, Value: []byte{n, 0, 0, 0}})
	}
	return newDoc().str("version", Version).str("gitVersion", "keywright").strs("modules", []string{"keywright"}).str("allocator", "go").
		str("javascriptEngine", "none").str("sysInfo", "deprecated").array("versionArray", version).int32("bits", 64).boolean("debug", false).
		int32("maxBsonObjectSize", maxDocumentSize).strs("storageEngines", []string{storageEngine}).doc("openssl", newDoc().str("running", "Go crypto/tls").done()).
		doc("buildEnvironment", newDoc().str("target_arch", runtime.GOARCH).str("target_os", runtime.GOOS).done()), nil
}

const storageEngine = "keywright"

func whatsMyURI(_ context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	return newDoc().str("you", req.conn.info.Remote.String()), nil
}

func connectionStatus(_ context.Context, _ *Server, req *request, user *auth.User) (*builder, error) {
	p := req.params()
	privileges := p.boolean("showPrivileges", false)
	if p.err != nil {
		return nil, p.err
	}
	users, roles := newArray(), newArray()
	if user != nil {
		users.doc(newDoc().str("user", user.Name).str("db", user.DB).done())
		for _, r := range user.Roles {
			roles.doc(newDoc().str("role", r.Role).str("db", r.DB).done())
		}
	}
	info := newDoc().array("authenticatedUsers", users).array("authenticatedUserRoles", roles)
	if privileges {
		list := newArray()
		if user != nil {
			for _, pr := range auth.Privileges(user.Roles) {
				list.doc(newDoc().doc("resource", showResource(pr.On)).strs("actions", pr.Actions).done())
			}
		}
		info.array("authenticatedUserPrivileges", list)
	}
	return newDoc().doc("authInfo", info.done()), nil
}

func showResource(on auth.Resource) bson.Raw {
	if on.Cluster {
		return newDoc().boolean("cluster", true).done()
	}
	return newDoc().str("db", on.DB).str("collection", on.Collection).done()
}

func parameterNames() []string {
	return []string{"featureCompatibilityVersion", "authenticationMechanisms"}
}

func getParameter(_ context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	all := false
	if s, ok := req.args[0].value.StringValueOK(); ok && s == "*" {
		all = true
	}
	if doc, ok := req.args[0].value.DocumentOK(); ok {
		all, _ = doc.Lookup("allParameters").BooleanOK()
	}
	out, found := newDoc(), false
	for _, name := range parameterNames() {
		if _, asked := req.arg(name); !asked && !all {
			continue
		}
		found = true
		if name == "featureCompatibilityVersion" {
			out.doc(name, newDoc().str("version", "7.0").done())
			continue
		}
		var list []string
		for _, m := range auth.Mechanisms() {
			list = append(list, string(m))
		}
		out.strs(name, list)
	}
	if !found {
		return nil, mongoerr.Of(mongoerr.InvalidOptions, "no option found to get")
	}
	return out, nil
}

func getLog(_ context.Context, _ *Server, req *request, _ *auth.User) (*builder, error) {
	name, ok := req.args[0].value.StringValueOK()
	switch {
	case !ok:
		return nil, wrongType("getLog", "getLog", req.args[0].value, "string")
	case name == "*":
		return newDoc().strs("names", []string{"global", "startupWarnings"}), nil
	case name == "global", name == "startupWarnings": // messages go to the log file only
		return newDoc().int32("totalLinesWritten", 0).array("log", newArray()), nil
	}
	return nil, mongoerr.Of(mongoerr.InvalidOptions, "No log named '%.64s'", name)
}

func getCmdLineOpts(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	return newDoc().strs("argv", s.cfg.Arguments).doc("parsed", newDoc().doc("replication", newDoc().str("replSet", s.cfg.Set).done()).done()), nil
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

func hostInfo(context.Context, *Server, *request, *auth.User) (*builder, error) {
	system := newDoc().date("currentTime", time.Now()).str("hostname", hostName()).int32("cpuAddrSize", 64).
		int32("numCores", int32(runtime.NumCPU())).str("cpuArch", runtime.GOARCH).boolean("numaEnabled", false) //nolint:gosec // a small number
	return newDoc().doc("system", system.done()).doc("os", newDoc().str("type", runtime.GOOS).str("name", runtime.GOOS).done()).doc("extra", newDoc().done()), nil
}

// serverInfo is what explain tells about the node.
func (s *Server) serverInfo() bson.Raw {
	host, port := s.cfg.Node.Status().Host, int32(0)
	if h, p, err := net.SplitHostPort(host); err == nil {
		host = h
		for _, c := range p {
			if c < '0' || c > '9' || port > 6553 {
				break
			}
			port = port*10 + c - '0'
		}
	}
	return newDoc().str("host", host).int32("port", port).str("version", Version).str("gitVersion", "keywright").done()
}

func serverStatus(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	st := s.cfg.Node.Status()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	open := 0
	if s.cfg.Connections != nil {
		open = s.cfg.Connections()
	}
	c := &s.counters
	ops := newDoc().int64("insert", c.insert.Load()).int64("query", c.query.Load()).int64("update", c.update.Load()).
		int64("delete", c.remove.Load()).int64("getmore", c.getmore.Load()).int64("command", c.command.Load()).done()
	out := newDoc().str("host", hostName()).str("version", Version).str("process", "keywright mongod").int64("pid", int64(os.Getpid())).
		double("uptime", time.Since(s.started).Seconds()).int64("uptimeMillis", time.Since(s.started).Milliseconds()).date("localTime", time.Now()).
		doc("connections", newDoc().int32("current", int32(open)).done()).
		doc("opcounters", ops).
		doc("mem", newDoc().int32("bits", 64).int64("resident", int64(mem.Sys>>20)).boolean("supported", true).done()).
		doc("metrics", newDoc().doc("cursor", newDoc().doc("open", newDoc().int64("total", int64(s.cursors.count())).done()).done()).done()).
		doc("storageEngine", newDoc().str("name", storageEngine).boolean("persistent", true).done())
	if st.Set != "" {
		out.doc("repl", newDoc().str("setName", st.Set).int64("setVersion", st.Version).boolean("isWritablePrimary", st.Primary).
			strs("hosts", []string{st.Host}).str("me", st.Host).done())
	}
	return out, nil
}

func listCommands(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	list := newDoc()
	names, _ := Commands()
	for _, name := range names {
		c := s.commands[name]
		list.doc(name, newDoc().str("help", "").boolean("requiresAuth", !c.anonymous).boolean("adminOnly", c.adminOnly).strs("apiVersions", apiVersions(c)).done())
	}
	return newDoc().doc("commands", list.done()), nil
}

func apiVersions(c *command) []string {
	if c.stable {
		return []string{"1"}
	}
	return nil
}

// shutdown ends the process cleanly. It is answered, as far as the connection
// still lives.
func shutdown(_ context.Context, s *Server, _ *request, _ *auth.User) (*builder, error) {
	if s.cfg.Stop == nil {
		return nil, mongoerr.Of(mongoerr.NotImplemented, "this process cannot be shut down by a command")
	}
	s.log.Info("shutting down by command")
	s.stopOnce.Do(s.cfg.Stop)
	return nil, nil
}
