package up

// BootstrapVersion is the version of Bootstrap.
const BootstrapVersion = 1

// Bootstrap is bootstrap.json: everything that a program needs to use what
// `keywright up` started. Its fields are a promise. Paths are absolute. The file
// has mode 0600; it is removed at start and put into place when all is ready.
type Bootstrap struct {
	Version    int               `json:"version"`
	BaseURL    string            `json:"baseUrl"`
	OrgID      string            `json:"orgId"`
	PublicKey  string            `json:"publicKey"`
	PrivateKey string            `json:"privateKey"`
	Console    *BootstrapConsole `json:"console,omitempty"`
	AWS        *BootstrapAWS     `json:"aws,omitempty"`
	AWSSecond  *BootstrapSecond  `json:"awsSecond,omitempty"`
	KMIP       BootstrapKMIP     `json:"kmip"`
	// CAFile is the authority of the databases' TLS certificates.
	CAFile string           `json:"caFile"`
	Sample *BootstrapSample `json:"sample,omitempty"`
	Enable *BootstrapEnable `json:"enable,omitempty"`
	Switch *BootstrapSwitch `json:"switch,omitempty"`
}

// BootstrapConsole is the web console and its first person, who owns the organization.
type BootstrapConsole struct {
	URL      string `json:"url"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// BootstrapAWS is the local AWS and an administrator of the customer's account.
type BootstrapAWS struct {
	Endpoint        string `json:"endpoint"`
	Region          string `json:"region"`
	AccountID       string `json:"accountId"`
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

// BootstrapSecond is a second customer's account, for keys of another account.
type BootstrapSecond struct {
	AccountID       string `json:"accountId"`
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

// BootstrapKMIP is the agent's KMIP server.
type BootstrapKMIP struct {
	Address string `json:"address"`
	CAFile  string `json:"caFile"`
}

// BootstrapSample is the project with a customer key and an encrypted cluster.
type BootstrapSample struct {
	ProjectID        string `json:"projectId"`
	ClusterName      string `json:"clusterName"`
	ConnectionString string `json:"connectionString"`
	RoleARN          string `json:"roleArn"`
	KeyARN           string `json:"keyArn"`
}

// BootstrapSwitch is the project to try the switch from an access key to a role on.
type BootstrapSwitch struct {
	ProjectID string `json:"projectId"`
}

// BootstrapEnable is the project to try enabling a customer key on.
type BootstrapEnable struct {
	ProjectID        string `json:"projectId"`
	ClusterName      string `json:"clusterName"`
	ConnectionString string `json:"connectionString"`
}
