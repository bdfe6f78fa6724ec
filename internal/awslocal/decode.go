package awslocal

import (
	"encoding/json"
	"fmt"
	"time"
)

// decodeState reads state.json of this version or of version 1; a newer
// version is refused.
func decodeState(raw []byte) (*state, error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	if head.Version < 1 || head.Version > stateVersion {
		return nil, fmt.Errorf("version %d, this program knows 1 to %d: use a newer program", head.Version, stateVersion)
	}
	st := &state{}
	if err := json.Unmarshal(raw, st); err != nil {
		return nil, err
	}
	if head.Version == 1 {
		st.fromVersion1()
	}
	if st.Keys == nil {
		st.Keys = map[string]*key{}
	}
	if st.Aliases == nil {
		st.Aliases = map[string]*alias{}
	}
	if len(st.SealKey) != sealKeyLen {
		return nil, fmt.Errorf("seal key has %d bytes, not %d", len(st.SealKey), sealKeyLen)
	}
	return st, st.index()
}

// fromVersion1 fills in what version 1 did not write: paths and dates of the
// users, who were all made with the data directory, as the canary role was.
func (st *state) fromVersion1() {
	st.Version = stateVersion
	var made time.Time
	if a := st.Accounts[PlatformAccount]; a != nil && a.Roles[canaryRole] != nil {
		made = a.Roles[canaryRole].Created
	}
	for _, a := range st.Accounts {
		for _, u := range a.Users {
			u.Path, u.Created = "/", made
			for i := range u.AccessKeys {
				u.AccessKeys[i].Created = made
			}
		}
	}
}
