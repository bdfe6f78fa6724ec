package auth

import "strings"

// Role is a built-in role, held on a database.
type Role struct {
	Role string `bson:"role"`
	DB   string `bson:"db"`
}

// Action is something that a command does to a resource, in MongoDB's words.
type Action string

// The actions that commands ask for.
const (
	Find             Action = "find"
	Insert           Action = "insert"
	Update           Action = "update"
	Remove           Action = "remove"
	CreateCollection Action = "createCollection"
	DropCollection   Action = "dropCollection"
	DropDatabase     Action = "dropDatabase"
	CreateIndex      Action = "createIndex"
	DropIndex        Action = "dropIndex"
	ListIndexes      Action = "listIndexes"
	ListCollections  Action = "listCollections"
	ListDatabases    Action = "listDatabases"
	CollStats        Action = "collStats"
	DBStats          Action = "dbStats"
	CreateUser       Action = "createUser"
	DropUser         Action = "dropUser"
	ChangeUser       Action = "changePassword"
	GrantRole        Action = "grantRole"
	ViewUser         Action = "viewUser"
	ServerStatus     Action = "serverStatus"
	HostInfo         Action = "hostInfo"
	GetLog           Action = "getLog"
	GetCmdLineOpts   Action = "getCmdLineOpts"
	GetParameter     Action = "getParameter"
	ReplSetStatus    Action = "replSetGetStatus"
	ReplSetConfigure Action = "replSetConfigure"
	Shutdown         Action = "shutdown"
	KillAnyCursor    Action = "killAnyCursor"
	// RotateMasterKey is Keywright's own; root alone has it.
	RotateMasterKey Action = "rotateMasterKey"
)

// Resource is what an action is done to: the cluster, a database (Collection
// empty), or a collection.
type Resource struct {
	Cluster    bool
	DB         string
	Collection string
}

type reach int

const (
	onCluster  reach = iota
	onOwnDB          // the role's database
	onAnyDB          // every database but local and config
	onEvery          // every database
	onUserData       // the collections that hold users, in admin
)

type grant struct {
	reach   reach
	system  bool // system collections too
	actions []Action
}

func readActions() []Action { return []Action{Find, ListIndexes, ListCollections, CollStats, DBStats} }

func writeActions() []Action {
	return append(readActions(), Insert, Update, Remove, CreateCollection, DropCollection, CreateIndex, DropIndex)
}

func dbAdminActions() []Action {
	return []Action{ListIndexes, ListCollections, CollStats, DBStats, CreateCollection, DropCollection, DropDatabase, CreateIndex, DropIndex}
}

func userActions() []Action { return []Action{CreateUser, DropUser, ChangeUser, GrantRole, ViewUser} }

func monitorActions() []Action {
	return []Action{ServerStatus, HostInfo, GetLog, GetCmdLineOpts, GetParameter, ReplSetStatus, ListDatabases}
}

// grants gives what a role allows; unknown roles allow nothing. adminOnly roles
// exist on the database admin alone.
func grants(role string) (list []grant, adminOnly bool) {
	switch role {
	case "read":
		return []grant{{reach: onOwnDB, actions: readActions()}}, false
	case "readWrite":
		return []grant{{reach: onOwnDB, actions: writeActions()}}, false
	case "dbAdmin":
		return []grant{{reach: onOwnDB, actions: dbAdminActions()}}, false
	case "userAdmin":
		return []grant{{reach: onOwnDB, actions: userActions()}}, false
	case "dbOwner":
		return []grant{{reach: onOwnDB, actions: append(append(writeActions(), dbAdminActions()...), userActions()...)}}, false
	case "readAnyDatabase":
		return []grant{{reach: onAnyDB, actions: readActions()}, {reach: onCluster, actions: []Action{ListDatabases}}}, true
	case "readWriteAnyDatabase":
		return []grant{{reach: onAnyDB, actions: writeActions()}, {reach: onCluster, actions: []Action{ListDatabases}}}, true
	case "dbAdminAnyDatabase":
		return []grant{{reach: onAnyDB, actions: dbAdminActions()}, {reach: onCluster, actions: []Action{ListDatabases}}}, true
	case "userAdminAnyDatabase":
		return []grant{
			{reach: onEvery, actions: userActions()}, {reach: onUserData, system: true, actions: readActions()},
			{reach: onCluster, actions: []Action{ListDatabases}},
		}, true
	case "clusterMonitor":
		return []grant{
			{reach: onCluster, actions: monitorActions()},
			{reach: onEvery, system: true, actions: []Action{CollStats, DBStats, ListIndexes, ListCollections}},
		}, true
	case "backup":
		return []grant{
			{reach: onEvery, system: true, actions: readActions()},
			{reach: onCluster, actions: []Action{ListDatabases, ServerStatus, GetParameter}},
		}, true
	case "restore":
		return []grant{
			{reach: onAnyDB, actions: append([]Action{DropDatabase}, writeActions()...)}, {reach: onUserData, system: true, actions: writeActions()},
			{reach: onEvery, actions: userActions()}, {reach: onCluster, actions: []Action{ListDatabases, GetParameter}},
		}, true
	case "root":
		var all []grant
		for _, part := range []string{"readWriteAnyDatabase", "dbAdminAnyDatabase", "userAdminAnyDatabase", "clusterMonitor", "backup", "restore"} {
			g, _ := grants(part)
			all = append(all, g...)
		}
		return append(all, grant{reach: onCluster, actions: []Action{ReplSetConfigure, Shutdown, KillAnyCursor, RotateMasterKey}}), true
	}
	return nil, false
}

// Exists tells whether the role is a built-in role of its database.
func (r Role) Exists() bool {
	list, adminOnly := grants(r.Role)
	return len(list) > 0 && r.DB != "" && (!adminOnly || r.DB == adminDB)
}

const adminDB = "admin"

// Allowed tells whether any of the roles lets its holder do the action.
func Allowed(roles []Role, action Action, on Resource) bool {
	for _, r := range roles {
		list, adminOnly := grants(r.Role)
		if adminOnly && r.DB != adminDB {
			continue
		}
		for _, g := range list {
			if g.covers(r.DB, on) && g.has(action) {
				return true
			}
		}
	}
	return false
}

func (g grant) has(a Action) bool {
	for _, have := range g.actions {
		if have == a {
			return true
		}
	}
	return false
}

func (g grant) covers(own string, on Resource) bool {
	if on.Cluster || g.reach == onCluster {
		return on.Cluster && g.reach == onCluster
	}
	if g.reach == onUserData {
		return on.DB == adminDB && isUserData(on.Collection)
	}
	if isKeyData(on) || (isSystem(on.Collection) && !g.system) {
		return false
	}
	switch g.reach {
	case onOwnDB:
		return on.DB == own
	case onAnyDB:
		return on.DB != "local" && on.DB != "config"
	default:
		return true
	}
}

// isSystem tells whether a collection is one of the server's own.
func isSystem(coll string) bool { return strings.HasPrefix(coll, "system.") && coll != "system.js" }

func isUserData(coll string) bool {
	return coll == "system.users" || coll == "system.roles" || coll == "system.version"
}

// isKeyData tells whether a collection holds the server's own secrets, which no
// role reaches.
func isKeyData(on Resource) bool { return on.DB == adminDB && on.Collection == "system.keys" }

// Privilege is what may be done to one resource: a database of empty name means
// every one, a collection of empty name all that are not the server's own.
type Privilege struct {
	On      Resource
	Actions []string
}

// Privileges lists what the roles allow, for showing.
func Privileges(roles []Role) []Privilege {
	var out []Privilege
	for _, r := range roles {
		list, adminOnly := grants(r.Role)
		if adminOnly && r.DB != adminDB {
			continue
		}
		for _, g := range list {
			p := Privilege{}
			switch g.reach {
			case onCluster:
				p.On.Cluster = true
			case onOwnDB:
				p.On.DB = r.DB
			case onUserData:
				p.On = Resource{DB: adminDB, Collection: "system.users"}
			}
			for _, a := range g.actions {
				p.Actions = append(p.Actions, string(a))
			}
			out = append(out, p)
		}
	}
	return out
}
