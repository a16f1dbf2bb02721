package pgwire

// Message types, frontend then backend, as protocol 3 names them.
const (
	msgBind         byte = 'B'
	msgClose        byte = 'C'
	msgCopyData     byte = 'd'
	msgCopyDone     byte = 'c'
	msgCopyFail     byte = 'f'
	msgDescribe     byte = 'D'
	msgExecute      byte = 'E'
	msgFlush        byte = 'H'
	msgFunctionCall byte = 'F'
	msgParse        byte = 'P'
	msgQuery        byte = 'Q'
	msgSync         byte = 'S'
	msgTerminate    byte = 'X'

	msgBindComplete         byte = '2'
	msgCloseComplete        byte = '3'
	msgCommandComplete      byte = 'C'
	msgCopyInResponse       byte = 'G'
	msgCopyOutResponse      byte = 'H'
	msgDataRow              byte = 'D'
	msgEmptyQuery           byte = 'I'
	msgNoData               byte = 'n'
	msgParameterDescription byte = 't'
	msgParameterStatus      byte = 'S'
	msgParseComplete        byte = '1'
	msgPortalSuspended      byte = 's'
	msgReadyForQuery        byte = 'Z'
	msgRowDescription       byte = 'T'
)

// smallMessage is the longest body of a message that carries only names and
// numbers, PostgreSQL's PQ_SMALL_MESSAGE_LIMIT.
const smallMessage = 10000

// bodyLimit returns how long the body of a message of this type may be; known
// is false for a type that no client may send.
func bodyLimit(typ byte, max int) (limit int, known bool) {
	switch typ {
	case msgQuery, msgParse, msgBind, msgCopyData, msgFunctionCall:
		return max, true
	case msgClose, msgDescribe, msgExecute, msgCopyFail, msgFlush, msgSync, msgCopyDone, msgTerminate:
		return min(max, smallMessage), true
	}
	return 0, false
}
