package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// TestLocksPage runs what docs/locks.md shows: its programs, and its shell sessions on one
// node, in the page's order, for later ones show what earlier ones did.
func TestLocksPage(t *testing.T) {
	const page = "../docs/locks.md"
	t.Run("sessions", func(t *testing.T) {
		c := startProcesses(t, Options{})
		s := newShell(t, page, c.Nodes[0])
		s.differs = []*regexp.Regexp{
			regexp.MustCompile(`session \d+ \(.*?\)`),
			regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`),
			regexp.MustCompile(`"(epoch|validUntil|check)": "\d+"`),
			regexp.MustCompile(`(?m)^LOCATION: .*\n`),
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		s.program("grpcurl", "SPAND_TEST_GRPCURL=1 exec '"+self+`' "$@"`)
		for _, name := range []string{"run", "files", "fence", "grpcurl", "history"} {
			s.session(name)
		}
	})
	t.Run("programs", func(t *testing.T) { runExamples(t, page, 6, nil) })
}

// The test binary stands in for grpcurl, as far as the page uses it: like that it knows of
// the service what reflection tells.
func init() {
	if os.Getenv("SPAND_TEST_GRPCURL") == "" {
		return
	}
	if err := grpcurl(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpcurl:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// grpcurl takes -plaintext -d JSON ADDRESS SERVICE/METHOD.
func grpcurl(args []string) error {
	if len(args) != 5 || args[0] != "-plaintext" || args[1] != "-d" {
		return fmt.Errorf("unexpected arguments %q", args)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(args[3], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	service, name, _ := strings.Cut(args[4], "/")
	method, err := reflected(ctx, conn, service, name)
	if err != nil {
		return err
	}
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal([]byte(args[2]), in); err != nil {
		return err
	}
	if err := conn.Invoke(ctx, "/"+args[4], in, out); err != nil {
		return err
	}
	text, err := protojson.Marshal(out)
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, text, "", "  "); err != nil {
		return err
	}
	fmt.Println(pretty.String())
	return nil
}

// reflected asks the server for a method's descriptor.
func reflected(ctx context.Context, conn *grpc.ClientConn, service, name string) (protoreflect.MethodDescriptor, error) {
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
	if err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	set := new(descriptorpb.FileDescriptorSet)
	for _, raw := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
		f := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(raw, f); err != nil {
			return nil, err
		}
		set.File = append(set.File, f)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%v)", service, err, resp.GetErrorResponse())
	}
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok || s.Methods().ByName(protoreflect.Name(name)) == nil {
		return nil, fmt.Errorf("no method %s/%s", service, name)
	}
	return s.Methods().ByName(protoreflect.Name(name)), nil
}
