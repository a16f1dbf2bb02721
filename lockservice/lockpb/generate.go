// Package lockpb is the generated code of lock.proto.
package lockpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative lock.proto
