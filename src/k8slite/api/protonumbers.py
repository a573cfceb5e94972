"""The numbers of fields in protobuf: struct → ``name number name number …``.

They are those of Kubernetes' core/v1, meta/v1 and autoscaling/v1 messages, for the fields that our
structs have. ``2.6`` is field 6 of the message that field 2 holds: Go embeds some structs, and JSON
shows their fields as their holder's own.
"""

from __future__ import annotations

NUMBERS = {
    "Binding": "metadata 1 target 2",
    "Capabilities": "add 1 drop 2",
    "ClientIPConfig": "timeoutSeconds 1",
    "ComponentCondition": "type 1 status 2 message 3 error 4",
    "ComponentStatus": "metadata 1 conditions 2",
    "Condition": "type 1 status 2 observedGeneration 3 lastTransitionTime 4 reason 5 message 6",
    "ConfigMap": "metadata 1 immutable 4 data 2 binaryData 3",
    "ConfigMapVolumeSource": "name 1.1 items 2 defaultMode 3 optional 4",
    "Container": (
        "name 1 image 2 command 3 args 4 workingDir 5 ports 6 envFrom 19 env 7 resources 8 "
        "volumeMounts 9 livenessProbe 10 readinessProbe 11 startupProbe 22 lifecycle 12 "
        "terminationMessagePath 13 terminationMessagePolicy 20 imagePullPolicy 14 "
        "securityContext 15 stdin 16 stdinOnce 17 tty 18 restartPolicy 24"
    ),
    "ContainerImage": "names 1 sizeBytes 2",
    "ContainerPort": "name 1 hostPort 2 containerPort 3 protocol 4 hostIP 5",
    "ContainerState": "waiting 1 running 2 terminated 3",
    "ContainerStateRunning": "startedAt 1",
    "ContainerStateTerminated": (
        "exitCode 1 signal 2 reason 3 message 4 startedAt 5 finishedAt 6 containerID 7"
    ),
    "ContainerStateWaiting": "reason 1 message 2",
    "ContainerStatus": (
        "name 1 state 2 lastState 3 ready 4 restartCount 5 image 6 imageID 7 containerID 8 "
        "started 9"
    ),
    "DaemonEndpoint": "Port 1",
    "DeleteOptions": (
        "gracePeriodSeconds 1 preconditions 2 orphanDependents 3 propagationPolicy 4 dryRun 5"
    ),
    "DownwardAPIVolumeFile": "path 1 fieldRef 2 resourceFieldRef 3 mode 4",
    "DownwardAPIVolumeSource": "items 1 defaultMode 2",
    "EmptyDirVolumeSource": "medium 1 sizeLimit 2",
    "EndpointAddress": "ip 1 hostname 3 nodeName 4 targetRef 2",
    "EndpointPort": "name 1 port 2 protocol 3 appProtocol 4",
    "EndpointSubset": "addresses 1 notReadyAddresses 2 ports 3",
    "Endpoints": "metadata 1 subsets 2",
    "EnvFromSource": "prefix 1 configMapRef 2 secretRef 3",
    "EnvVar": "name 1 value 2 valueFrom 3",
    "EnvVarSource": "fieldRef 1 resourceFieldRef 2 configMapKeyRef 3 secretKeyRef 4",
    "Event": (
        "metadata 1 involvedObject 2 reason 3 message 4 source 5 firstTimestamp 6 lastTimestamp "
        "7 count 8 type 9 eventTime 10 series 11 action 12 related 13 reportingComponent 14 "
        "reportingInstance 15"
    ),
    "EventSource": "component 1 host 2",
    "ExecAction": "command 1",
    "HTTPGetAction": "path 1 port 2 host 3 scheme 4 httpHeaders 5",
    "HTTPHeader": "name 1 value 2",
    "Handler": "exec 1 httpGet 2 tcpSocket 3",
    "HostAlias": "ip 1 hostnames 2",
    "HostPathVolumeSource": "path 1 type 2",
    "KeySelector": "name 1.1 key 2 optional 3",
    "KeyToPath": "key 1 path 2 mode 3",
    "Lifecycle": "postStart 1 preStop 2",
    "LimitRange": "metadata 1 spec 2",
    "LimitRangeItem": "type 1 max 2 min 3 default 4 defaultRequest 5 maxLimitRequestRatio 6",
    "LimitRangeSpec": "limits 1",
    "LoadBalancerIngress": "ip 1 hostname 2",
    "LoadBalancerStatus": "ingress 1",
    "LocalReference": "name 1",
    "Namespace": "metadata 1 spec 2 status 3",
    "NamespaceSpec": "finalizers 1",
    "NamespaceStatus": "phase 1 conditions 2",
    "Node": "metadata 1 spec 2 status 3",
    "NodeAddress": "type 1 address 2",
    "NodeCondition": (
        "type 1 status 2 lastHeartbeatTime 3 lastTransitionTime 4 reason 5 message 6"
    ),
    "NodeDaemonEndpoints": "kubeletEndpoint 1",
    "NodeSpec": "podCIDR 1 podCIDRs 7 externalID 2 providerID 3 unschedulable 4 taints 5",
    "NodeStatus": (
        "capacity 1 allocatable 2 phase 3 conditions 4 addresses 5 daemonEndpoints 6 nodeInfo 7 "
        "images 8"
    ),
    "NodeSystemInfo": (
        "machineID 1 systemUUID 2 bootID 3 kernelVersion 4 osImage 5 containerRuntimeVersion 6 "
        "kubeletVersion 7 kubeProxyVersion 8 operatingSystem 9 architecture 10"
    ),
    "ObjectFieldSelector": "apiVersion 1 fieldPath 2",
    "ObjectMeta": (
        "resourceVersion 6 name 1 generateName 2 namespace 3 selfLink 4 uid 5 generation 7 "
        "creationTimestamp 8 deletionTimestamp 9 deletionGracePeriodSeconds 10 labels 11 "
        "annotations 12 ownerReferences 13 finalizers 14 managedFields 17"
    ),
    "ObjectReference": (
        "kind 1 namespace 2 name 3 uid 4 apiVersion 5 resourceVersion 6 fieldPath 7"
    ),
    "OptionalReference": "name 1.1 optional 2",
    "OwnerReference": "apiVersion 5 kind 1 name 3 uid 4 controller 6 blockOwnerDeletion 7",
    "Pod": "metadata 1 spec 2 status 3",
    "PodCondition": "type 1 status 2 lastProbeTime 3 lastTransitionTime 4 reason 5 message 6",
    "PodIP": "ip 1",
    "PodSecurityContext": (
        "runAsUser 2 runAsGroup 6 runAsNonRoot 3 supplementalGroups 4 fsGroup 5 seLinuxOptions "
        "1 seccompProfile 10 sysctls 7"
    ),
    "PodSpec": (
        "volumes 1 initContainers 20 containers 2 ephemeralContainers 34 restartPolicy 3 "
        "terminationGracePeriodSeconds 4 activeDeadlineSeconds 5 dnsPolicy 6 dnsConfig 26 "
        "nodeSelector 7 serviceAccountName 8 serviceAccount 9 automountServiceAccountToken 21 "
        "nodeName 10 hostNetwork 11 hostPID 12 hostIPC 13 securityContext 14 imagePullSecrets "
        "15 hostname 16 subdomain 17 affinity 18 schedulerName 19 tolerations 22 hostAliases 23 "
        "priorityClassName 24 priority 25 enableServiceLinks 30 shareProcessNamespace 27 "
        "readinessGates 28 topologySpreadConstraints 33 preemptionPolicy 31"
    ),
    "PodStatus": (
        "observedGeneration 17 phase 1 conditions 2 message 3 reason 4 nominatedNodeName 11 "
        "hostIP 5 podIP 6 podIPs 12 startTime 7 initContainerStatuses 10 containerStatuses 8 "
        "qosClass 9"
    ),
    "PodTemplate": "metadata 1 template 2",
    "PodTemplateSpec": "metadata 1 spec 2",
    "Preconditions": "uid 1 resourceVersion 2",
    "Probe": (
        "exec 1.1 httpGet 1.2 tcpSocket 1.3 initialDelaySeconds 2 timeoutSeconds 3 "
        "periodSeconds 4 successThreshold 5 failureThreshold 6 terminationGracePeriodSeconds 7"
    ),
    "ReplicationController": "metadata 1 spec 2 status 3",
    "ReplicationControllerSpec": "replicas 1 minReadySeconds 4 selector 2 template 3",
    "ReplicationControllerStatus": (
        "replicas 1 fullyLabeledReplicas 2 readyReplicas 4 availableReplicas 5 "
        "observedGeneration 3 conditions 6"
    ),
    "ResourceFieldSelector": "containerName 1 resource 2 divisor 3",
    "ResourceQuota": "metadata 1 spec 2 status 3",
    "ResourceQuotaSpec": "hard 1 scopes 2 scopeSelector 3",
    "ResourceQuotaStatus": "hard 1 used 2",
    "ResourceRequirements": "limits 1 requests 2",
    "Scale": "metadata 1 spec 2 status 3",
    "ScaleSpec": "replicas 1",
    "ScaleStatus": "replicas 1 selector 2",
    "Secret": "metadata 1 immutable 5 data 2 stringData 4 type 3",
    "SecretVolumeSource": "secretName 1 items 2 defaultMode 3 optional 4",
    "SecurityContext": (
        "capabilities 1 privileged 2 runAsUser 4 runAsGroup 8 runAsNonRoot 5 "
        "readOnlyRootFilesystem 6 allowPrivilegeEscalation 7 seLinuxOptions 3 seccompProfile 11"
    ),
    "Service": "metadata 1 spec 2 status 3",
    "ServiceAccount": "metadata 1 secrets 2 imagePullSecrets 3 automountServiceAccountToken 4",
    "ServicePort": "name 1 protocol 2 appProtocol 6 port 3 targetPort 4 nodePort 5",
    "ServiceSpec": (
        "ports 1 selector 2 clusterIP 3 clusterIPs 18 type 4 externalIPs 5 sessionAffinity 7 "
        "sessionAffinityConfig 14 loadBalancerIP 8 loadBalancerSourceRanges 9 externalName 10 "
        "externalTrafficPolicy 11 internalTrafficPolicy 22 healthCheckNodePort 12 "
        "publishNotReadyAddresses 13 ipFamilies 19 ipFamilyPolicy 17 "
        "allocateLoadBalancerNodePorts 20 loadBalancerClass 21"
    ),
    "ServiceStatus": "loadBalancer 1 conditions 2",
    "SessionAffinityConfig": "clientIP 1",
    "TCPSocketAction": "port 1 host 2",
    "Taint": "key 1 value 2 effect 3 timeAdded 4",
    "Toleration": "key 1 operator 2 value 3 effect 4 tolerationSeconds 5",
    "Volume": (
        "name 1 emptyDir 2.2 hostPath 2.1 secret 2.6 configMap 2.19 downwardAPI 2.16 projected "
        "2.26 persistentVolumeClaim 2.10 nfs 2.7 gitRepo 2.5 gcePersistentDisk 2.3 "
        "awsElasticBlockStore 2.4 iscsi 2.8 glusterfs 2.9"
    ),
    "VolumeMount": "name 1 readOnly 2 mountPath 3 subPath 4",
}
